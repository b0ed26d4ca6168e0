"""Saved cells in half of the bytes: K and V as q8_0, llama.cpp's blocks of 32 numbers with one scale."""

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
    numbers = [cells[part.start : part.stop].view(np.float16) for part in ranges]
    if not numbers:
        return {"cells": cells}
    is_other = np.ones(cells.size, dtype=bool)
    for part in ranges:
        is_other[part.start : part.stop] = False
    return {
        "q8_0": quantize_q8_0(np.concatenate(numbers).astype(np.float32)),
        "other": cells[is_other],
        "ranges": np.array([[part.start, part.stop] for part in ranges], dtype=np.int64),
    }


def restore(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    """Return the cells of which `shrink` gave these parts. Raises KeyError if one is missing."""
    if "cells" in arrays:
        return arrays["cells"]
    numbers = dequantize(arrays["q8_0"].reshape(-1, N_BYTES), GGMLQuantizationType.Q8_0)
    values, other = numbers.astype(np.float16).reshape(-1).view(np.uint8), arrays["other"]
    cells = np.empty(values.size + other.size, dtype=np.uint8)
    n_values = n_other = end = 0
    for start, stop in arrays["ranges"].tolist():
        cells[end:start] = other[n_other : n_other + start - end]
        cells[start:stop] = values[n_values : n_values + stop - start]
        n_other, n_values, end = n_other + start - end, n_values + stop - start, stop
    cells[end:] = other[n_other:]
    return cells
