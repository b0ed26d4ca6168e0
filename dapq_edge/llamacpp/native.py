"""ctypes bindings of the functions that `patches/` adds to llama.cpp.

Importing this module works on any build of llama-cpp-python. The functions below raise `StockBuildError` where the
patch is missing. They check what the native functions return; these check their arguments and never abort.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from importlib.metadata import version
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from .._version import PATCH_VERSION
from ..counts import count
from ..errors import DapqError, NoFreeCellsError, StockBuildError, UnsupportedModelError
from . import compat

NO_PROBE = "this model cannot be probed: use `policy=full` or `policy=streaming`"
NO_VALUES = "the values of this model cannot be changed"
NO_EVICTION = "the memory of this model cannot be evicted: use `policy=full`"

# what llama.cpp fails for is nearly always this
LOWER = "not enough memory? lower `kv_budget`, `n_ctx` or `n_batch`"

_INT32_P = ctypes.POINTER(ctypes.c_int32)
_FLOAT_P = ctypes.POINTER(ctypes.c_float)

# `llama_attn_probe_callback`: layer, attention, its size, and what is not used
_PROBE_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int32, _FLOAT_P, ctypes.c_int64, ctypes.c_void_p)

_SIGNATURES = {
    "llama_memory_layer": ([ctypes.c_void_p, ctypes.c_int32, _INT32_P, _INT32_P], ctypes.c_int32),
    "llama_attn_probe": (
        [
            ctypes.c_void_p,
            ctypes.c_int32,
            _INT32_P,
            ctypes.c_int32,
            ctypes.c_int32,
            ctypes.c_int,
            _PROBE_CALLBACK,
            ctypes.c_void_p,
        ],
        ctypes.c_int32,
    ),
    "llama_memory_seq_pos_get": ([ctypes.c_void_p, ctypes.c_int32, _INT32_P, ctypes.c_int32], ctypes.c_int32),
    "llama_memory_seq_pos_rm": ([ctypes.c_void_p, ctypes.c_int32, _INT32_P, ctypes.c_int32], ctypes.c_int32),
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
    "llama_memory_seq_v_size": (
        [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, _INT32_P, _INT32_P],
        ctypes.c_int32,
    ),
    "llama_memory_seq_v_get": (
        [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, _FLOAT_P, ctypes.c_int64],
        ctypes.c_int32,
    ),
    "llama_memory_seq_v_set": (
        [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, _FLOAT_P, ctypes.c_int64],
        ctypes.c_int32,
    ),
    "llama_memory_n_cells": ([ctypes.c_void_p], ctypes.c_int32),
    "llama_memory_size": ([ctypes.c_void_p], ctypes.c_int64),
    "llama_memory_resize": ([ctypes.c_void_p, ctypes.c_int32], ctypes.c_int32),
    "llama_set_n_layer_eval": ([ctypes.c_void_p, ctypes.c_int32], ctypes.c_int32),
}


class LayerFlag(IntFlag):
    """Abilities of the cells of a layer: `enum llama_memory_layer_flags`."""

    PROBE = 1
    GATHER = 2


class ProbeType(IntEnum):
    """Reduction of the attention over the tokens of a probe: `enum llama_attn_probe_type`."""

    NONE = 0
    MEAN = 1
    MAX = 2


def patch_version() -> int | None:
    """Return the version of the patch in the loaded library, or None on a stock build."""
    try:
        function = compat.lib.llama_dapq_version
    except AttributeError:
        return None
    function.argtypes = []
    function.restype = ctypes.c_int32
    return int(function())


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    loaded = patch_version()
    if loaded != PATCH_VERSION:
        found = "a stock build" if loaded is None else f"built with patch version {loaded}, not {PATCH_VERSION}"
        raise StockBuildError(
            f"llama-cpp-python {version('llama-cpp-python')} is {found}: "
            "run ./scripts/setup.sh in a clone of dapq_edge to build the patched one"
        )
    function: Callable[..., Any] = getattr(compat.lib, name)
    function.argtypes, function.restype = _SIGNATURES[name]  # type: ignore[attr-defined]
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


def _int32(values: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(values, dtype=np.int32)


def _pointer(array: npt.NDArray[Any], kind: type) -> Any:
    return array.ctypes.data_as(kind)


def seq_positions(ctx: llama_cpp.llama_context_p, seq_id: int) -> npt.NDArray[np.int32]:
    """Return the positions of the cells of a sequence in the full-attention layers, ascending: int32 [n_cells]."""
    get, memory = _function("llama_memory_seq_pos_get"), llama_cpp.llama_get_memory(ctx)
    positions = np.empty(_check(get(memory, seq_id, None, 0), "list the cells"), dtype=np.int32)
    get(memory, seq_id, _pointer(positions, _INT32_P), positions.size)
    return positions


def seq_remove(ctx: llama_cpp.llama_context_p, seq_id: int, positions: Sequence[int] | npt.NDArray[Any]) -> int:
    """Remove the cells at `positions` (strictly ascending, all in the sequence); returns how many were removed."""
    positions = _int32(positions)
    remove, memory = _function("llama_memory_seq_pos_rm"), llama_cpp.llama_get_memory(ctx)
    return _check(remove(memory, seq_id, _pointer(positions, _INT32_P), positions.size), "remove cells")


def n_cells(ctx: llama_cpp.llama_context_p) -> int:
    """Return the cells that the full-attention layers of a context have, used or free."""
    return _check(_function("llama_memory_n_cells")(llama_cpp.llama_get_memory(ctx)), "count the cells")


def memory_bytes(ctx: llama_cpp.llama_context_p) -> int:
    """Return the bytes that are allocated for the K and V data of a context, in all layers, used or free."""
    return _check(_function("llama_memory_size")(llama_cpp.llama_get_memory(ctx)), "measure the memory")


def resize(ctx: llama_cpp.llama_context_p, cells: int) -> None:
    """Give the full-attention layers of a context another number of cells; the rest of the memory goes to the system.

    cells: Rounded up to a multiple of 256, as `n_ctx` is; see `n_cells`.

    The used cells are copied in between, so both the old and the new K and V data exist for a moment.

    Raises `DapqError` if a used cell is beyond the new ones (gather first), or if there is not enough memory.
    """
    code = _function("llama_memory_resize")(ctx, min(cells, 2**31 - 1))
    if code == -3:
        raise DapqError(f"llama.cpp could not allocate {cells} cells: {LOWER}")
    _check(code, f"resize the memory to {cells} cells")


def set_n_layer_eval(ctx: llama_cpp.llama_context_p, n_layer: int) -> None:
    """Evaluate only the first `n_layer` layers from now on, 0 for all: K and V of these, and probes of them.

    Batches must not ask for logits then. What was evaluated up to a layer cannot be continued with more layers, until
    it is removed: `decode` and `probe` raise `DapqError` for it.

    Raises `UnsupportedModelError` for a memory without cells, and `DapqError` if there are fewer layers.
    """
    _check(_function("llama_set_n_layer_eval")(ctx, n_layer), f"evaluate {n_layer} layers")


def _layers(ctx: llama_cpp.llama_context_p, flag: LayerFlag) -> dict[int, tuple[int, int]]:
    """Return {layer: (query heads, KV heads)} of the layers that have `flag`."""
    n_layer, query = llama_cpp.llama_model_n_layer(llama_cpp.llama_get_model(ctx)), _function("llama_memory_layer")
    found = {}
    for il in range(n_layer):
        n_head, n_head_kv = ctypes.c_int32(), ctypes.c_int32()
        if query(ctx, il, n_head, n_head_kv) & flag:
            found[il] = (n_head.value, n_head_kv.value)
    return found


def gather_heads(ctx: llama_cpp.llama_context_p) -> dict[int, int]:
    """Return {layer: KV heads} of the full-attention layers that have cells of their own."""
    return {il: n_head_kv for il, (_, n_head_kv) in _layers(ctx, LayerFlag.GATHER).items()}


def seq_gather(ctx: llama_cpp.llama_context_p, src: int, dst: int, keep: Sequence[npt.NDArray[Any]]) -> None:
    """Keep only some cells of the sequence `src`, others in each KV head; or copy them into the empty sequence `dst`.

    keep: for each layer of `gather_heads`, in order, integers [KV heads, cells]: indices of cells in the order of
    `seq_positions`, strictly ascending.

    Raises `NoFreeCellsError` if a copy does not fit, `UnsupportedModelError` if the model cannot be gathered, and
    `DapqError` if an argument is invalid or if there is not enough memory; nothing is changed then. If a device failed
    while it moved the cells, `DapqError` is raised, too, and `dst` is empty.
    """
    n_keep = _int32([heads.shape[-1] for heads in keep])
    cells = _int32(np.concatenate([np.ravel(heads) for heads in keep]) if keep else [])
    code = _function("llama_memory_seq_gather")(
        ctx, src, dst, _pointer(n_keep, _INT32_P), n_keep.size, _pointer(cells, _INT32_P), cells.size
    )
    if code == 1:
        raise NoFreeCellsError(f"no {n_keep.max()} free cells for a copy of the cache: raise `n_ctx`")
    if code == -3:
        raise DapqError(f"llama.cpp could not move the cells: {LOWER}")
    _check(code, f"gather {cells.size} rows of sequence {src}")


def _values_shape(ctx: llama_cpp.llama_context_p, seq_id: int, layer: int) -> tuple[int, int, int]:
    n_cells, head_dim = ctypes.c_int32(), ctypes.c_int32()
    code = _function("llama_memory_seq_v_size")(ctx, seq_id, layer, n_cells, head_dim)
    _check_values(code, layer)
    return gather_heads(ctx)[layer], n_cells.value, head_dim.value


def _check_values(code: int, layer: int) -> None:
    if code == -2:
        raise UnsupportedModelError(NO_VALUES)
    if code == -3:
        raise DapqError(f"llama.cpp could not copy the values of layer {layer}: {LOWER}")
    _check(code, f"copy the values of layer {layer}")


def seq_values(ctx: llama_cpp.llama_context_p, seq_id: int, layer: int) -> npt.NDArray[np.float32]:
    """Return V of the cells of a sequence in one layer of `gather_heads`: float32 [KV heads, cells, head_dim].

    The cells are in the order of `seq_positions`, of which a layer that keeps fewer cells has the last ones. If V is
    quantized, llama.cpp may have rotated it; sums of its values are then rotated in the same way.

    Raises `UnsupportedModelError` if the model cannot be gathered or has no V of its own, and `DapqError` if an
    argument is invalid or if there is not enough memory.
    """
    values = np.empty(_values_shape(ctx, seq_id, layer), dtype=np.float32)
    code = _function("llama_memory_seq_v_get")(ctx, seq_id, layer, _pointer(values, _FLOAT_P), values.size)
    _check_values(code, layer)
    return values


def set_seq_values(ctx: llama_cpp.llama_context_p, seq_id: int, layer: int, values: npt.NDArray[Any]) -> None:
    """Replace V of the cells of a sequence in one layer, see `seq_values`: numbers [KV heads, cells, head_dim].

    They are rounded to the type of the cache. Raises ValueError if the shape is another one, and as `seq_values` does,
    also if another sequence shares one of the cells; nothing is changed then.
    """
    shape = _values_shape(ctx, seq_id, layer)
    if values.shape != shape:
        raise ValueError(f"values of layer {layer} have the shape {values.shape}, not {shape}")
    numbers = np.ascontiguousarray(values, dtype=np.float32)
    code = _function("llama_memory_seq_v_set")(ctx, seq_id, layer, _pointer(numbers, _FLOAT_P), numbers.size)
    _check_values(code, layer)


def probe_heads(ctx: llama_cpp.llama_context_p) -> dict[int, tuple[int, int]]:
    """Return {layer: (query heads, KV heads)} of the layers that a probe reports, {} if there are none."""
    return _layers(ctx, LayerFlag.PROBE)


def probe_tokens_max(ctx: llama_cpp.llama_context_p) -> int:
    """Return the largest number of tokens that one probe can evaluate: they are one batch of the device."""
    return int(llama_cpp.llama_n_ubatch(ctx))


def probe(
    ctx: llama_cpp.llama_context_p,
    seq_id: int,
    tokens: Sequence[int] | npt.NDArray[Any],
    pos: int,
    reduce: ProbeType = ProbeType.MEAN,
) -> npt.NDArray[np.float32]:
    """Return the attention that `tokens`, evaluated at `pos`, `pos` + 1, ..., pay to the cells of a sequence.

    The memory and the last logits stay as they are. Cells at `pos` and after it are hidden and get 0.

    Returns float32 [rows, cells], or [rows, tokens, cells] with `ProbeType.NONE`. The rows are the query heads of all
    layers of `probe_heads`, in order; the cells are in the order of `seq_positions`.

    Raises `NoFreeCellsError` if the context has fewer free cells than tokens, `UnsupportedModelError` if the model
    cannot be probed, and `DapqError` if an argument is invalid or the computation failed.
    """
    rows, n_rows = {}, 0
    for layer, (n_head, _) in probe_heads(ctx).items():
        rows[layer] = slice(n_rows, n_rows + n_head)
        n_rows += n_head
    shape = _probe_shape(n_rows, len(tokens), seq_positions(ctx, seq_id).size, reduce)
    attention = np.empty(shape, dtype=np.float32)

    def fill(layer: int, seen: npt.NDArray[np.float32]) -> None:
        attention[rows[layer]] = seen

    probe_layers(ctx, seq_id, tokens, pos, reduce, fill)
    return attention


def _probe_shape(n_rows: int, n_tokens: int, n_cells: int, reduce: ProbeType) -> tuple[int, ...]:
    return (n_rows, n_tokens, n_cells) if reduce == ProbeType.NONE else (n_rows, n_cells)


def probe_layers(
    ctx: llama_cpp.llama_context_p,
    seq_id: int,
    tokens: Sequence[int] | npt.NDArray[Any],
    pos: int,
    reduce: ProbeType,
    each: Callable[[int, npt.NDArray[np.float32]], object],
) -> None:
    """Probe as `probe` does, but hand over one layer after the other: the attention of all needs no memory then.

    each: Called for each layer of `probe_heads`, in order, with its number and its attention: float32 [query heads,
    cells], or [query heads, tokens, cells] with `ProbeType.NONE`. The array is a view that is valid during the call
    only. It must not use the context. What it raises, `probe_layers` raises in the end; no other layer is handed over.
    """
    tokens = _int32(tokens)
    n_heads = {layer: n_head for layer, (n_head, _) in probe_heads(ctx).items()}
    n_cells = seq_positions(ctx, seq_id).size
    errors: list[BaseException] = []

    def report(layer: int, data: Any, n_data: int, _: Any) -> None:
        if errors:
            return
        try:
            seen = np.ctypeslib.as_array(data, (n_data,))
            seen.flags.writeable = False
            each(layer, seen.reshape(_probe_shape(n_heads[layer], tokens.size, n_cells, reduce)))
        # it cannot pass through llama.cpp
        except BaseException as error:
            errors.append(error)

    code = _function("llama_attn_probe")(
        ctx, seq_id, _pointer(tokens, _INT32_P), tokens.size, pos, reduce, _PROBE_CALLBACK(report), None
    )
    if errors:
        raise errors[0]
    if code == 1:
        raise NoFreeCellsError(
            f"no {count(tokens.size, 'free cell')} to probe in a context of {llama_cpp.llama_n_ctx(ctx)}: raise `n_ctx`"
        )
    if code == 2:
        raise DapqError("the probe was aborted")
    if code == -2:
        raise UnsupportedModelError(NO_PROBE)
    if code == -3:
        raise DapqError(f"llama.cpp could not compute the probe: {LOWER}")
    _check(code, f"probe {count(tokens.size, 'token')} at position {pos} (at most {probe_tokens_max(ctx)} fit)")
