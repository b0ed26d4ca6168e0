"""The ctypes face of the patched llama.cpp (`patches/`).

Importing this module works on any build of llama-cpp-python. The functions below raise `StockBuildError` where the
patch is missing. They check what the native functions return; these check their arguments and never abort.
"""

import ctypes
import functools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from importlib.metadata import version
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp._logger import llama_log_callback
from llama_cpp.llama_cpp import _lib as _llama

from ._version import PATCH_VERSION
from .errors import DapqError, NoFreeCellsError, StockBuildError, UnsupportedModelError

# llama-cpp-python's own table of the levels is an older one
GGML_LOG_LEVEL_ERROR = 4

NO_PROBE = "this model cannot be probed: use --policy full or streaming"
NO_EVICTION = "the memory of this model cannot be evicted: use --policy full"

# what llama.cpp fails for is nearly always this
_LOWER = "not enough memory? lower --kv-budget, -c or -b"

_INT8_P = ctypes.POINTER(ctypes.c_int8)
_INT32_P = ctypes.POINTER(ctypes.c_int32)
_FLOAT_P = ctypes.POINTER(ctypes.c_float)

_SIGNATURES = {
    "llama_attn_probe_n_tokens_max": ([], ctypes.c_int32),
    "llama_attn_probe_n_head": ([ctypes.c_void_p, ctypes.c_int32], ctypes.c_int32),
    "llama_attn_probe_n_head_kv": ([ctypes.c_void_p, ctypes.c_int32], ctypes.c_int32),
    "llama_attn_probe": (
        [
            ctypes.c_void_p,
            ctypes.c_int32,
            _INT32_P,
            ctypes.c_int32,
            ctypes.c_int32,
            ctypes.c_int,
            _FLOAT_P,
            ctypes.c_int64,
        ],
        ctypes.c_int32,
    ),
    "llama_memory_seq_pos_get": ([ctypes.c_void_p, ctypes.c_int32, _INT32_P, ctypes.c_int32], ctypes.c_int32),
    "llama_memory_seq_pos_rm": ([ctypes.c_void_p, ctypes.c_int32, _INT32_P, ctypes.c_int32], ctypes.c_int32),
    "llama_memory_n_head_kv": ([ctypes.c_void_p, ctypes.c_int32], ctypes.c_int32),
    "llama_memory_seq_gather": (
        [
            ctypes.c_void_p,
            ctypes.c_int32,
            ctypes.c_int32,
            _INT32_P,
            ctypes.c_int32,
            _INT32_P,
            ctypes.c_int64,
        ],
        ctypes.c_int32,
    ),
    "llama_memory_n_cells": ([ctypes.c_void_p], ctypes.c_int32),
    "llama_memory_size": ([ctypes.c_void_p], ctypes.c_int64),
    "llama_memory_resize": ([ctypes.c_void_p, ctypes.c_int32], ctypes.c_int32),
    "llama_memory_seq_size": ([ctypes.c_void_p, ctypes.c_int32], ctypes.c_int64),
}


class ProbeType(IntEnum):
    """How a probe reduces the attention over its tokens: `enum llama_attn_probe_type`."""

    NONE = 0
    MEAN = 1
    MAX = 2


def patch_version() -> int | None:
    """The version of the patch in the loaded library, or None on a stock build."""
    try:
        function = _llama.llama_dapq_version
    except AttributeError:
        return None
    function.argtypes = []
    function.restype = ctypes.c_int32
    return function()


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    loaded = patch_version()
    if loaded != PATCH_VERSION:
        found = "a stock build" if loaded is None else f"built with patch version {loaded}, not {PATCH_VERSION}"
        raise StockBuildError(
            f"llama-cpp-python {version('llama-cpp-python')} is {found}: "
            "run ./scripts/setup.sh in a clone of dapq_edge to build the patched one"
        )
    function = getattr(_llama, name)
    function.argtypes, function.restype = _SIGNATURES[name]
    return function


def require() -> None:
    """Raise `StockBuildError` unless the loaded library has our patches."""
    _function("llama_attn_probe")


def _check(code: int, what: str) -> int:
    """Turn the error codes of the memory functions into exceptions."""
    if code == -2:
        raise UnsupportedModelError(NO_EVICTION)
    if code < 0:
        raise DapqError(f"llama.cpp refused to {what} (code {code})")
    return code


def _int32(values: Sequence[int] | npt.NDArray) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(values, dtype=np.int32)


def _pointer(array: npt.NDArray, kind: type) -> ctypes._Pointer:
    return array.ctypes.data_as(kind)


def decode(ctx: llama_cpp.llama_context_p, seq_id: int, tokens: Sequence[int] | npt.NDArray, pos: int) -> None:
    """Evaluate `tokens` at `pos`, `pos` + 1, ... of a sequence; the logits of the last one stay in the context.

    Raises `NoFreeCellsError` if the context has fewer free cells than tokens, and `DapqError` if llama.cpp fails.
    """
    n_batch = llama_cpp.llama_n_batch(ctx)
    for start in range(0, len(tokens), n_batch):
        batch = _Batch(tokens[start : start + n_batch], seq_id, pos + start, is_last=start + n_batch >= len(tokens))
        code = llama_cpp.llama_decode(ctx, batch.struct)
        if code == 1:
            raise NoFreeCellsError(f"no free cells for tokens {start} to {start + n_batch} of {len(tokens)}: raise -c")
        if code != 0:
            raise DapqError(f"llama.cpp cannot read token {start} of {len(tokens)} (code {code}): {_LOWER}")


class _Batch:
    """Consecutive tokens of one sequence; keeps alive what the struct points to."""

    def __init__(self, tokens: Sequence[int] | npt.NDArray, seq_id: int, pos: int, is_last: bool) -> None:
        n = len(tokens)
        self._token, self._pos = _int32(tokens), np.arange(pos, pos + n, dtype=np.int32)
        self._n_seq_id, self._seq_id = np.ones(n, dtype=np.int32), ctypes.c_int32(seq_id)
        self._seq_ids = (_INT32_P * n)(*[ctypes.pointer(self._seq_id)] * n)
        self._logits = np.zeros(n, dtype=np.int8)
        self._logits[-1] = is_last
        self.struct = llama_cpp.llama_batch(
            n_tokens=n,
            token=_pointer(self._token, _INT32_P),
            pos=_pointer(self._pos, _INT32_P),
            n_seq_id=_pointer(self._n_seq_id, _INT32_P),
            seq_id=self._seq_ids,
            logits=_pointer(self._logits, _INT8_P),
        )


def seq_positions(ctx: llama_cpp.llama_context_p, seq_id: int) -> npt.NDArray[np.int32]:
    """Positions of the cells of a sequence in the full-attention layers, ascending: int32 [n_cells]."""
    get, memory = _function("llama_memory_seq_pos_get"), llama_cpp.llama_get_memory(ctx)
    positions = np.empty(_check(get(memory, seq_id, None, 0), "list the cells"), dtype=np.int32)
    get(memory, seq_id, _pointer(positions, _INT32_P), positions.size)
    return positions


def seq_remove(ctx: llama_cpp.llama_context_p, seq_id: int, positions: Sequence[int] | npt.NDArray) -> int:
    """Remove the cells at `positions` (strictly ascending, all in the sequence); returns how many were removed."""
    positions = _int32(positions)
    remove, memory = _function("llama_memory_seq_pos_rm"), llama_cpp.llama_get_memory(ctx)
    return _check(remove(memory, seq_id, _pointer(positions, _INT32_P), positions.size), "remove cells")


def partial_state(ctx: llama_cpp.llama_context_p, seq_id: int) -> ctypes.Array:
    """What the next token of a sequence sees of its sliding-window and recurrent layers. Raises `DapqError`."""
    flags = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
    state = (ctypes.c_uint8 * llama_cpp.llama_state_seq_get_size_ext(ctx, seq_id, flags))()
    if llama_cpp.llama_state_seq_get_data_ext(ctx, state, len(state), seq_id, flags) != len(state):
        raise DapqError("llama.cpp cannot save the window or the recurrent state of a sequence")
    return state


def set_partial_state(ctx: llama_cpp.llama_context_p, seq_id: int, state: ctypes.Array) -> None:
    """Put back what `partial_state` gave. Raises `DapqError`."""
    flags = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
    if llama_cpp.llama_state_seq_set_data_ext(ctx, state, len(state), seq_id, flags) == 0:
        raise DapqError("llama.cpp cannot put the window or the recurrent state of a sequence back")


def seq_bytes(ctx: llama_cpp.llama_context_p, seq_id: int) -> int:
    """Bytes of the K and V data of a sequence, in all layers."""
    return _check(_function("llama_memory_seq_size")(llama_cpp.llama_get_memory(ctx), seq_id), "measure the cells")


def n_cells(ctx: llama_cpp.llama_context_p) -> int:
    """Cells that the full-attention layers of a context have, used or free."""
    return _check(_function("llama_memory_n_cells")(llama_cpp.llama_get_memory(ctx)), "count the cells")


def memory_bytes(ctx: llama_cpp.llama_context_p) -> int:
    """Bytes that are allocated for the K and V data of a context, in all layers, used or free."""
    return _check(_function("llama_memory_size")(llama_cpp.llama_get_memory(ctx)), "measure the memory")


def resize(ctx: llama_cpp.llama_context_p, cells: int) -> None:
    """Give the full-attention layers of a context another number of cells; the rest of the memory goes to the system.

    The used cells are copied in between, so both the old and the new K and V data exist for a moment.

    Raises `DapqError` if a used cell is beyond the new ones (gather first), or if there is not enough memory.
    """
    code = _function("llama_memory_resize")(ctx, min(cells, 2**31 - 1))
    if code == -3:
        raise DapqError(f"llama.cpp could not allocate {cells} cells: {_LOWER}")
    _check(code, f"resize the memory to {cells} cells")


def gather_heads(ctx: llama_cpp.llama_context_p) -> dict[int, int]:
    """{layer: KV heads} of the full-attention layers that have cells of their own."""
    memory, n_layer = llama_cpp.llama_get_memory(ctx), llama_cpp.llama_model_n_layer(llama_cpp.llama_get_model(ctx))
    n_head_kv = _function("llama_memory_n_head_kv")
    return {il: n_head_kv(memory, il) for il in range(n_layer) if n_head_kv(memory, il) > 0}


def seq_gather(ctx: llama_cpp.llama_context_p, src: int, dst: int, keep: Sequence[npt.NDArray]) -> None:
    """Keep only some cells of the sequence `src`, others in each KV head; or copy them into the empty sequence `dst`.

    keep: for each layer of `gather_heads`, in order, integers [KV heads, cells]: indices of cells in the order of
    `seq_positions`, strictly ascending.

    Raises `NoFreeCellsError` if a copy does not fit, `UnsupportedModelError` if the model cannot be gathered, and
    `DapqError` if an argument is invalid or the computation failed. Nothing is changed then.
    """
    n_keep = _int32([heads.shape[-1] for heads in keep])
    cells = _int32(np.concatenate([np.ravel(heads) for heads in keep]) if keep else [])
    code = _function("llama_memory_seq_gather")(
        ctx, src, dst, _pointer(n_keep, _INT32_P), n_keep.size, _pointer(cells, _INT32_P), cells.size
    )
    if code == 1:
        raise NoFreeCellsError(f"no {n_keep.max()} free cells for a copy of the cache: raise -c")
    if code == -3:
        raise DapqError(f"llama.cpp could not move the cells: {_LOWER}")
    _check(code, f"gather {cells.size} rows of sequence {src}")


def probe_heads(ctx: llama_cpp.llama_context_p) -> dict[int, tuple[int, int]]:
    """{layer: (query heads, KV heads)} of the layers that a probe reports; empty if the model cannot be probed."""
    n_layer = llama_cpp.llama_model_n_layer(llama_cpp.llama_get_model(ctx))
    n_head, n_head_kv = _function("llama_attn_probe_n_head"), _function("llama_attn_probe_n_head_kv")
    return {il: (n_head(ctx, il), n_head_kv(ctx, il)) for il in range(n_layer) if n_head(ctx, il) > 0}


def probe_tokens_max(ctx: llama_cpp.llama_context_p) -> int:
    """The largest number of tokens that one probe can evaluate."""
    return min(_function("llama_attn_probe_n_tokens_max")(), llama_cpp.llama_n_ubatch(ctx))


def probe(
    ctx: llama_cpp.llama_context_p,
    seq_id: int,
    tokens: Sequence[int] | npt.NDArray,
    pos: int,
    reduce: ProbeType = ProbeType.MEAN,
) -> npt.NDArray[np.float32]:
    """Attention that `tokens`, evaluated at `pos`, `pos` + 1, ..., pay to the cells of a sequence.

    The memory and the last logits stay as they are. Cells at `pos` and after it are hidden and get 0.

    Returns float32 [rows, cells], or [rows, tokens, cells] with `ProbeType.NONE`. The rows are the query heads of all
    layers of `probe_heads`, in order; the cells are in the order of `seq_positions`.

    Raises `NoFreeCellsError` if the context has fewer free cells than tokens, `UnsupportedModelError` if the model
    cannot be probed, and `DapqError` if an argument is invalid or the computation failed.
    """
    tokens = _int32(tokens)
    n_rows = sum(n_head for n_head, _ in probe_heads(ctx).values())
    n_cells = seq_positions(ctx, seq_id).size
    shape = (n_rows, tokens.size, n_cells) if reduce == ProbeType.NONE else (n_rows, n_cells)
    attention = np.empty(shape, dtype=np.float32)
    code = _function("llama_attn_probe")(
        ctx,
        seq_id,
        _pointer(tokens, _INT32_P),
        tokens.size,
        pos,
        reduce,
        _pointer(attention, _FLOAT_P),
        attention.size,
    )
    if code == 1:
        raise NoFreeCellsError(
            f"no {tokens.size} free cells to probe in a context of {llama_cpp.llama_n_ctx(ctx)}: raise -c"
        )
    if code == 2:
        raise DapqError("the probe was aborted")
    if code == -2:
        raise UnsupportedModelError(NO_PROBE)
    if code == -3:
        raise DapqError(f"llama.cpp could not compute the probe: {_LOWER}")
    _check(code, f"probe {tokens.size} tokens at position {pos} (at most {probe_tokens_max(ctx)} fit)")
    return attention


# callbacks of the captures that are open, and below them the one that prints
_log_callbacks = [llama_log_callback]


@contextmanager
def captured_log() -> Iterator[deque[str]]:
    """Collect the error lines of llama.cpp instead of printing them; the last one usually names the cause.

    Captures nest: the innermost one gets the lines.
    """
    lines: deque[str] = deque(maxlen=20)

    @llama_cpp.llama_log_callback
    def collect(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if level == GGML_LOG_LEVEL_ERROR:
            lines.append(text.decode("utf-8", "replace").strip())

    _log_callbacks.append(collect)
    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    try:
        yield lines
    finally:
        _log_callbacks.pop()
        llama_cpp.llama_log_set(_log_callbacks[-1], ctypes.c_void_p(0))


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)
def _end(message: bytes) -> None:
    # a progress bar may have hidden the cursor
    show_cursor = b"\x1b[?25h\n" if os.isatty(2) else b""
    os.write(2, show_cursor + b"dapq-edge: llama.cpp stopped: " + message.strip() + b"\n")
    os._exit(1)


def end_on_abort() -> None:
    """When ggml gives up, as it does if an RPC server is gone, end the process with one line, not with a core dump."""
    _llama.ggml_set_abort_callback(_end)
