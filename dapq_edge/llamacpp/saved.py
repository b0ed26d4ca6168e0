"""K and V in the cells that llama.cpp saved (`llama_kv_cache::state_write`), and in its q8_0."""

import ctypes
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import compat
from .context import CACHE_TYPES

F16 = CACHE_TYPES["f16"]

_quantize = compat.lib.ggml_quantize_chunk
_quantize.restype, _quantize.argtypes = (
    ctypes.c_size_t,
    [
        ctypes.c_int,
        np.ctypeslib.ndpointer(np.float32, ndim=1, flags="C_CONTIGUOUS"),
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ],
)

# a magic number and the sequence
N_HEADER = 8

# more layers, or bytes of a row, has no model
MAX_LAYERS, MAX_ROW = 512, 2**20

# more bytes has no cell beside K and V: position, sequences and what our patch marks
MAX_META = 64

# before the cells of a layer: the type, and the bytes of a row; or, of V that is transposed, the bytes of a number and
# the numbers of a row
ROW, COLUMN = struct.Struct("<iQ"), struct.Struct("<iII")

# a number of cells with this bit has marks of our patch, whose version comes next, and how many cells each layer lacks
MARKED = 1 << 31


@dataclass(frozen=True)
class _Tensors:
    """Bytes of K and V of some layers, and where they end."""

    ranges: list[range]
    stop: int


def f16_ranges(state: npt.NDArray[np.uint8]) -> list[range]:
    """Return which bytes of a saved sequence are K and V in f16.

    Args:
        state: What `context.seq_state` gave: uint8 [bytes].

    Returns none if it is not laid out as attention layers of one stream are, with K and V of f16.
    """
    data = state.data
    ranges, start = [], N_HEADER
    while start < state.size:
        found = _section(data, start)
        if found is None:
            return []
        ranges += found.ranges
        start = found.stop
    return ranges


def quantize_q8_0(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return numbers in llama.cpp's q8_0: blocks of 32 numbers of a byte, and their scale.

    Args:
        numbers: float32 [a multiple of 32].
    """
    blocks = np.empty(numbers.size // 32 * 34, dtype=np.uint8)
    _quantize(CACHE_TYPES["q8_0"], numbers, blocks.ctypes.data, 0, 1, numbers.size, None)
    return blocks


def _section(data: memoryview, start: int) -> _Tensors | None:
    """Return the tensors of one memory; a model with sliding windows has two."""
    if start + 8 > len(data):
        return None
    n_streams, n_cells = struct.unpack_from("<II", data, start)
    if n_streams != 1:
        return None
    start += 8
    missing: tuple[int, ...] = ()
    if n_cells & MARKED:
        n_cells &= ~MARKED
        found = _missing(data, start + 4)
        if found is None:
            return None
        missing, start = found
    if n_cells == 0:
        return _Tensors([], start)
    # what stands before the tensors depends on the model
    for first in range(start, min(start + 56 + n_cells * MAX_META, len(data) - 20), 4):
        is_transposed, n_layers, cache_type, row = struct.unpack_from("<IIiQ", data, first)
        is_some = 0 < n_layers <= MAX_LAYERS and 0 < row <= MAX_ROW
        if is_transposed > 1 or not is_some or cache_type != F16 or len(missing) not in (0, n_layers):
            continue
        has = [n_cells - n for n in missing or [0] * n_layers]
        for n_data in range(n_layers, 0, -1):
            tensors = _layers(data, first + 8, has, n_data, bool(is_transposed))
            if tensors and (tensors.stop == len(data) or _is_section(data, tensors.stop)):
                return tensors
    return None


def _missing(data: memoryview, start: int) -> tuple[tuple[int, ...], int] | None:
    """Return how many cells each layer lacks, nothing if they lack none, and where that ends."""
    if start + 4 > len(data):
        return None
    (n_layers,) = struct.unpack_from("<I", data, start)
    stop = start + 4 + 4 * n_layers
    if n_layers > MAX_LAYERS or stop > len(data):
        return None
    return struct.unpack_from(f"<{n_layers}I", data, start + 4), stop


def _is_section(data: memoryview, start: int) -> bool:
    return start + 8 <= len(data) and struct.unpack_from("<I", data, start)[0] == 1


def _layers(data: memoryview, start: int, n_cells: Sequence[int], n_data: int, is_transposed: bool) -> _Tensors | None:
    """Return the tensors of layers with `n_cells` cells, of which the first `n_data` have some."""
    ranges, n_layers = [], len(n_cells)
    # all K come before all V
    for i, row in enumerate([ROW] * n_layers + [COLUMN if is_transposed else ROW] * n_layers):
        if start + row.size > len(data):
            return None
        cache_type, *lengths = row.unpack_from(data, start)
        n_bytes = math.prod(lengths) * n_cells[i % n_layers]
        start += row.size
        if cache_type != F16 or not 0 < n_bytes <= MAX_ROW * n_cells[i % n_layers]:
            return None
        if i % n_layers < n_data:
            ranges.append(range(start, start + n_bytes))
            start += n_bytes
    return _Tensors(ranges, start) if start <= len(data) else None
