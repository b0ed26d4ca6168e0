"""Saved cells in half of the bytes: K and V as q8_0, llama.cpp's blocks of 32 numbers with one scale."""

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ..llamacpp.saved import f16_ranges, quantize_q8_0

N_BLOCK, N_BYTES = GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0]


def shrink(cells: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """Return the parts of saved cells: K and V in q8_0, and all other bytes as they are.

    Cells in which no K and V of f16 are found stay whole.
    """
    ranges = [part for part in f16_ranges(cells) if len(part) % (2 * N_BLOCK) == 0]
    if not ranges:
        return {"cells": cells}
    borders = [0, *chain.from_iterable((part.start, part.stop) for part in ranges), cells.size]
    other = [cells[start:stop] for start, stop in zip(borders[::2], borders[1::2], strict=True)]
    # one layer at a time stays in the caches of the CPU
    blocks = [quantize_q8_0(cells[part.start : part.stop].view(np.float16).astype(np.float32)) for part in ranges]
    return {
        "q8_0": np.concatenate(blocks),
        "other": np.concatenate(other),
        "ranges": np.array([[part.start, part.stop] for part in ranges], dtype=np.int64),
    }


def restore(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    """Return the cells of which `shrink` gave these parts. Raises KeyError if one is missing."""
    if "cells" in arrays:
        return arrays["cells"]
    ranges, blocks, other = arrays["ranges"].tolist(), arrays["q8_0"], arrays["other"]
    cells = np.empty(other.size + sum(stop - start for start, stop in ranges), dtype=np.uint8)
    n_blocks = n_other = end = 0
    for start, stop in ranges:
        cells[end:start] = other[n_other : n_other + start - end]
        n_other, end = n_other + start - end, stop
        # one layer at a time stays in the caches of the CPU; one row, as of many only some are computed at once
        n_bytes = (stop - start) // (2 * N_BLOCK) * N_BYTES
        numbers = dequantize(blocks[None, n_blocks : n_blocks + n_bytes], GGMLQuantizationType.Q8_0)
        cells[start:stop] = numbers.astype(np.float16).view(np.uint8)[0]
        n_blocks += n_bytes
    cells[end:] = other[n_other:]
    return cells
