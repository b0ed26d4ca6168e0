"""A prompt that was read once, to try several evictions on."""

import ctypes

import llama_cpp

from ..errors import DapqError
from ..llama import Llama


class Snapshot:
    """The state of a `Llama` after reading a prompt, kept on the host."""

    def __init__(self, llama: Llama) -> None:
        ctx = llama._ctx.ctx
        self._llama = llama
        self._tokens = llama.input_ids[: llama.n_tokens].tolist()
        self._state = (ctypes.c_uint8 * llama_cpp.llama_state_seq_get_size(ctx, 0))()
        llama_cpp.llama_state_seq_get_data(ctx, self._state, len(self._state), 0)
        self._recent = list(llama.kv_cache.recent)

    def restore(self) -> None:
        """Put the cache and the logits of the last token back."""
        llama, ctx, last = self._llama, self._llama._ctx.ctx, len(self._tokens) - 1
        llama.kv_cache.clear()
        if llama_cpp.llama_state_seq_set_data(ctx, self._state, len(self._state), 0) == 0:
            raise DapqError("llama.cpp cannot restore a cache that it saved")
        # the state of a sequence has no logits: evaluate the last token again
        llama.n_tokens = last
        llama.eval(self._tokens[last:])
        llama.kv_cache.recent = list(self._recent)
