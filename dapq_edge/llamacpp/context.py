"""Functions of any build of llama.cpp on a context: evaluate tokens, forget them, save and load them."""

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from ..cells import BRANCH, N_SEQ, pad
from ..counts import count
from ..errors import DapqError, NoFreeCellsError
from .native import LOWER

# names of llama.cpp for --cache-type-k and --cache-type-v, with the values of enum ggml_type
CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q4_0": 2,
    "q4_1": 3,
    "iq4_nl": 20,
    "q5_0": 6,
    "q5_1": 7,
}

FLASH_ATTN = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}

_INT8_P = ctypes.POINTER(ctypes.c_int8)
_INT32_P = ctypes.POINTER(ctypes.c_int32)
_UINT8_P = ctypes.POINTER(ctypes.c_uint8)

Context = llama_cpp.llama_context_p


def set_sequence_params(params: llama_cpp.llama_context_params, n_cells: int) -> None:
    """Set what a context needs for one sequence that is evicted, and for branches of it."""
    params.n_ctx = pad(n_cells)
    # a window cache of the size of the window, as the command line tools of llama.cpp have it
    params.swa_full = False
    # the sequences share the cells, so that a branch costs only what it copies
    params.n_seq_max, params.kv_unified = N_SEQ, True


class _Batch:
    """Consecutive tokens of one sequence; keeps alive what the struct points to."""

    def __init__(self, tokens: npt.NDArray[np.int32], seq_id: int, pos: int, n_logits: int) -> None:
        n = len(tokens)
        self._token, self._pos = tokens, np.arange(pos, pos + n, dtype=np.int32)
        self._n_seq_id, self._seq_id = np.ones(n, dtype=np.int32), ctypes.c_int32(seq_id)
        self._seq_ids = (_INT32_P * n)(*[ctypes.pointer(self._seq_id)] * n)
        self._logits = (np.arange(n) >= n - n_logits).astype(np.int8)
        self.struct = llama_cpp.llama_batch(
            n_tokens=n,
            token=self._token.ctypes.data_as(_INT32_P),
            pos=self._pos.ctypes.data_as(_INT32_P),
            n_seq_id=self._n_seq_id.ctypes.data_as(_INT32_P),
            seq_id=self._seq_ids,
            logits=self._logits.ctypes.data_as(_INT8_P),
        )


def decode(ctx: Context, seq_id: int, tokens: Sequence[int] | npt.NDArray[Any], pos: int, *, n_logits: int = 1) -> None:
    """Evaluate `tokens` at `pos`, `pos` + 1, ... of a sequence, as one batch.

    The logits of the last `n_logits` tokens stay in the context. Raises `NoFreeCellsError` if the context has
    fewer free cells than tokens, and `DapqError` if llama.cpp fails.
    """
    batch = _Batch(np.ascontiguousarray(tokens, dtype=np.int32), seq_id, pos, n_logits)
    code = llama_cpp.llama_decode(ctx, batch.struct)
    if code == 1:
        raise NoFreeCellsError(f"no free cells for {count(len(tokens), 'token')} at position {pos}: raise `n_ctx`")
    if code != 0:
        raise DapqError(f"llama.cpp cannot read {count(len(tokens), 'token')} at position {pos} (code {code}): {LOWER}")


def n_batch(ctx: Context) -> int:
    """Return the tokens that one batch has at most."""
    return llama_cpp.llama_n_batch(ctx)


def n_ctx(ctx: Context) -> int:
    """Return the cells that the context was opened with."""
    return llama_cpp.llama_n_ctx(ctx)


def n_seq_max(ctx: Context) -> int:
    """Return the sequences that the context has room for."""
    return llama_cpp.llama_n_seq_max(ctx)


def n_layer(ctx: Context) -> int:
    """Return the layers of the model."""
    return llama_cpp.llama_model_n_layer(llama_cpp.llama_get_model(ctx))


def n_swa(ctx: Context) -> int:
    """Return the tokens that a sliding window sees, 0 without one."""
    return llama_cpp.llama_model_n_swa(llama_cpp.llama_get_model(ctx))


def is_recurrent(ctx: Context) -> bool:
    """Return whether layers hold one state of all tokens, which cannot forget the last ones."""
    model = llama_cpp.llama_get_model(ctx)
    return llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model)


def n_vocab(ctx: Context) -> int:
    """Return the tokens of the vocabulary."""
    return llama_cpp.llama_vocab_n_tokens(_vocab(ctx))


def is_end(ctx: Context, token: int) -> bool:
    """Return whether a token ends an answer."""
    return llama_cpp.llama_vocab_is_eog(_vocab(ctx), token)


def _vocab(ctx: Context) -> llama_cpp.llama_vocab_p:
    return llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(ctx))


def logits(ctx: Context) -> npt.NDArray[np.float32] | None:
    """Return the logits of the last token that was evaluated, in the memory of llama.cpp: float32 [n_vocab].

    None if there are none.
    """
    data = llama_cpp.llama_get_logits_ith(ctx, -1)
    return np.ctypeslib.as_array(data, shape=(n_vocab(ctx),)) if data else None


def all_logits(ctx: Context, n_tokens: int) -> npt.NDArray[np.float32]:
    """Return the logits of all `n_tokens` tokens of the last batch: float32 [tokens, n_vocab]."""
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits(ctx), shape=(n_tokens, n_vocab(ctx)))


def hidden_states(ctx: Context, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the last hidden states of a text by itself: float32 [tokens, n_embd]. Raises as `decode` does.

    It is evaluated in the branch, which is empty afterwards.
    """
    n_embd = llama_cpp.llama_model_n_embd(llama_cpp.llama_get_model(ctx))
    states, n_most = [], n_batch(ctx)
    llama_cpp.llama_set_embeddings(ctx, True)
    try:
        for start in range(0, len(tokens), n_most):
            part = tokens[start : start + n_most]
            decode(ctx, BRANCH, part, start, n_logits=len(part))
            data = llama_cpp.llama_get_embeddings(ctx)
            states.append(np.ctypeslib.as_array(data, shape=(len(part), n_embd)).copy())
    finally:
        llama_cpp.llama_set_embeddings(ctx, False)
        seq_rm(ctx, BRANCH, -1)
    return np.concatenate(states)


def reserve_logits(ctx: Context) -> None:
    """Make a context that has evaluated nothing have memory for logits. Raises `DapqError`."""
    if logits(ctx) is None:
        # llama.cpp allocates it with the first batch; the branch is free
        decode(ctx, BRANCH, [0], 0)
        seq_rm(ctx, BRANCH, -1)


def next_position(ctx: Context, seq_id: int) -> int:
    """Return the position after the last token of a sequence."""
    return llama_cpp.llama_memory_seq_pos_max(llama_cpp.llama_get_memory(ctx), seq_id) + 1


def first_position(ctx: Context, seq_id: int) -> int:
    """Return the first position that all layers of a sequence still have, -1 if none."""
    return llama_cpp.llama_memory_seq_pos_min(llama_cpp.llama_get_memory(ctx), seq_id)


def seq_rm(ctx: Context, seq_id: int, pos: int) -> bool:
    """Forget a sequence from `pos` on, all of it for -1; returns whether llama.cpp could."""
    return llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(ctx), seq_id, pos, -1)


def seq_state(ctx: Context, seq_id: int) -> npt.NDArray[np.uint8]:
    """Return K, V and recurrent states of a sequence, as llama.cpp saves them. Raises `DapqError`."""
    state = np.empty(llama_cpp.llama_state_seq_get_size(ctx, seq_id), dtype=np.uint8)
    n_bytes = llama_cpp.llama_state_seq_get_data(ctx, state.ctypes.data_as(_UINT8_P), state.size, seq_id)
    if n_bytes != state.size:
        raise DapqError("llama.cpp cannot save the cells of the sequence")
    return state


def set_seq_state(ctx: Context, seq_id: int, state: npt.NDArray[np.uint8]) -> None:
    """Put back what `seq_state` gave. Raises `DapqError` if llama.cpp refuses it; the sequence is empty then."""
    if llama_cpp.llama_state_seq_set_data(ctx, state.ctypes.data_as(_UINT8_P), state.size, seq_id) == 0:
        raise DapqError("llama.cpp refuses the saved cells: were they saved with another `flash_attn`?")


def context_state(ctx: Context) -> npt.NDArray[np.uint8]:
    """Return all sequences of a context, with the cells that left a sliding window. Raises `DapqError`."""
    state = np.empty(llama_cpp.llama_state_get_size(ctx), dtype=np.uint8)
    n_bytes = llama_cpp.llama_state_get_data(ctx, state.ctypes.data_as(_UINT8_P), state.size)
    if n_bytes > state.size or n_bytes == 0:
        raise DapqError("llama.cpp cannot save the context")
    return state[:n_bytes]


def set_context_state(ctx: Context, state: npt.NDArray[np.uint8]) -> None:
    """Put back what `context_state` gave. Raises `DapqError` if llama.cpp refuses it."""
    if llama_cpp.llama_state_set_data(ctx, state.ctypes.data_as(_UINT8_P), state.size) == 0:
        raise DapqError("llama.cpp refuses the saved context")


def state_size(ctx: Context, seq_id: int) -> int:
    """Return the bytes that `seq_state` would have."""
    return llama_cpp.llama_state_seq_get_size(ctx, seq_id)


def partial_state(ctx: Context, seq_id: int) -> npt.NDArray[np.uint8]:
    """Return what the next token of a sequence sees of its sliding-window and recurrent layers. Raises `DapqError`."""
    flags = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
    state = np.empty(llama_cpp.llama_state_seq_get_size_ext(ctx, seq_id, flags), dtype=np.uint8)
    n_bytes = llama_cpp.llama_state_seq_get_data_ext(ctx, state.ctypes.data_as(_UINT8_P), state.size, seq_id, flags)
    if n_bytes != state.size:
        raise DapqError("llama.cpp cannot save the window or the recurrent state of a sequence")
    return state


def set_partial_state(ctx: Context, seq_id: int, state: npt.NDArray[np.uint8]) -> None:
    """Put back what `partial_state` gave. Raises `DapqError`."""
    flags = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
    if llama_cpp.llama_state_seq_set_data_ext(ctx, state.ctypes.data_as(_UINT8_P), state.size, seq_id, flags) == 0:
        raise DapqError("llama.cpp cannot put the window or the recurrent state of a sequence back")
