"""A prompt that was read once, to try several evictions on."""

import ctypes

import llama_cpp

from ..errors import DapqError
from ..reading import ReadingLlama


class Snapshot:
    """The state of a `ReadingLlama` after reading a prompt, kept on the host."""

    def __init__(self, llama: ReadingLlama) -> None:
        self._llama = llama
        self._n_tokens = llama.n_tokens
        self._record = llama.kv_cache.record
        # the state of a context has no logits
        self._logits = llama.kv_cache.logits.copy()
        # that of a sequence lacks the cells that left a sliding window, which a probe before the end needs
        self._state = (ctypes.c_uint8 * llama_cpp.llama_state_get_size(llama._ctx.ctx))()
        if llama_cpp.llama_state_get_data(llama._ctx.ctx, self._state, len(self._state)) != len(self._state):
            raise DapqError("llama.cpp cannot save a cache")

    def restore(self) -> None:
        """Put the cache and the logits of the last token back."""
        llama = self._llama
        llama.kv_cache.clear()
        if llama_cpp.llama_state_set_data(llama._ctx.ctx, self._state, len(self._state)) == 0:
            raise DapqError("llama.cpp cannot restore a cache that it saved")
        llama.n_tokens = self._n_tokens
        llama.kv_cache.record = self._record
        llama.kv_cache.logits[:] = self._logits
