"""One sequence's KV cache: read, probe, evict, usage."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import llama_cpp
import numpy as np
import numpy.typing as npt

from . import native
from .errors import DapqError, UnsupportedModelError

# for each full-attention layer, the cells that each KV head keeps: integers [KV heads, cells], ascending in a row
Keep = list[npt.NDArray[np.intp]]

# the sequence that a branch takes
BRANCH = 1


@dataclass(frozen=True)
class LayerAttention:
    """What a probe saw in one layer.

    attention: float32 [query heads, cells], or [query heads, queries, cells] if it was not reduced.
    """

    layer: int
    n_head_kv: int
    attention: npt.NDArray[np.float32]


class KVCache:
    """The cells of one sequence of a llama.cpp context.

    A cell is a slot of the KV cache: one position, all layers. Cells are counted from 0 in ascending position. After an
    eviction, a cell holds other tokens in each layer and KV head.

    recent: the tokens that were read since the last eviction. They are the ones of the last cells.
    n_missing: how many of the first cells each layer lacks, in the order of `gathered_heads`; empty if none does.
    """

    def __init__(self, ctx: llama_cpp.llama_context_p, seq_id: int = 0) -> None:
        self.ctx = ctx
        self.seq_id = seq_id
        self.recent: list[int] = []
        self.n_missing: list[int] = []

    @property
    def positions(self) -> npt.NDArray[np.int32]:
        """Position of each cell, ascending: int32 [cells]."""
        return native.seq_positions(self.ctx, self.seq_id)

    @property
    def n_cells(self) -> int:
        return self.positions.size

    @property
    def next_position(self) -> int:
        """Position of the next token."""
        return llama_cpp.llama_memory_seq_pos_max(llama_cpp.llama_get_memory(self.ctx), self.seq_id) + 1

    @property
    def n_bytes(self) -> int:
        """Bytes of the K and V data of the sequence, in all layers."""
        return native.seq_bytes(self.ctx, self.seq_id)

    def clear(self) -> None:
        """Free all cells of the sequence."""
        self.recent, self.n_missing = [], []
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.ctx), self.seq_id, -1, -1)

    def read(self, tokens: Sequence[int] | npt.NDArray) -> None:
        """Evaluate `tokens` after the last cell; the logits of the last one stay in the context.

        Raises as `native.decode` does.
        """
        native.decode(self.ctx, self.seq_id, tokens, self.next_position)
        self.recent += map(int, tokens)

    @property
    def _vocab(self) -> llama_cpp.llama_vocab_p:
        return llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(self.ctx))

    @property
    def n_vocab(self) -> int:
        return llama_cpp.llama_vocab_n_tokens(self._vocab)

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """Logits of the last token that was read, until the next one: float32 [n_vocab]. Raises `DapqError` if none."""
        logits = llama_cpp.llama_get_logits_ith(self.ctx, -1)
        if not logits:
            raise DapqError("the context has no logits: read a token first")
        return np.ctypeslib.as_array(logits, shape=(self.n_vocab,))

    def look_ahead(self, n_tokens: int) -> tuple[list[int], float]:
        """The next tokens by greedy decoding after `read`, and the geometric mean of their probabilities.

        It ends with a token that ends the answer, or after `n_tokens`. All but the last token are read, too.
        """
        tokens, log_probabilities = [], []
        while True:
            logits = self.logits.astype(np.float64)
            tokens.append(int(np.argmax(logits)))
            log_probabilities.append(-np.log(np.exp(logits - logits.max()).sum()))
            if len(tokens) == n_tokens or llama_cpp.llama_vocab_is_eog(self._vocab, tokens[-1]):
                return tokens, float(np.exp(np.mean(log_probabilities)))
            self.read(tokens[-1:])

    def probed_heads(self) -> dict[int, tuple[int, int]]:
        """{layer: (query heads, KV heads)} of the full-attention layers. Raises `UnsupportedModelError` if none."""
        heads = native.probe_heads(self.ctx)
        if not heads:
            raise UnsupportedModelError(native.NO_PROBE)
        return heads

    def gathered_heads(self) -> dict[int, int]:
        """{layer: KV heads} of the layers that can be evicted. Raises `UnsupportedModelError` if there are none."""
        heads = native.gather_heads(self.ctx)
        if not heads:
            raise UnsupportedModelError(native.NO_EVICTION)
        return heads

    @property
    def can_evict(self) -> bool:
        return bool(native.gather_heads(self.ctx)) and bool(native.probe_heads(self.ctx))

    def probe(
        self, tokens: Sequence[int] | npt.NDArray, pos: int, reduce: native.ProbeType = native.ProbeType.MEAN
    ) -> list[LayerAttention]:
        """Attention that `tokens` at `pos`, `pos` + 1, ... pay to the cells, for each full-attention layer.

        The cache is left as it was. Raises as `native.probe` does.
        """
        heads = self.probed_heads()
        rows = native.probe(self.ctx, self.seq_id, tokens, pos, reduce)
        return list(self._split(rows, heads))

    @staticmethod
    def _split(rows: npt.NDArray[np.float32], heads: dict[int, tuple[int, int]]) -> Iterator[LayerAttention]:
        start = 0
        for layer, (n_head, n_head_kv) in heads.items():
            yield LayerAttention(layer, n_head_kv, rows[start : start + n_head])
            start += n_head

    def evict(self, keep: Keep) -> None:
        """Free all cells but those in `keep`, which move to the front. Raises as `native.seq_gather` does."""
        native.seq_gather(self.ctx, self.seq_id, self.seq_id, keep)
        n_cells = [heads.shape[-1] for heads in keep]
        self.recent, self.n_missing = [], [max(n_cells) - n for n in n_cells]

    @contextmanager
    def branch(self, keep: Keep) -> Iterator["KVCache"]:
        """A sequence to look ahead on, with a copy of the cells in `keep`.

        It is removed at the end, and the logits are again those before it. Raises `DapqError` if the context has one
        sequence only, and as `native.seq_gather` does.
        """
        if llama_cpp.llama_n_seq_max(self.ctx) <= BRANCH:
            raise DapqError(f"a context of one sequence has no room for a branch: open it with n_seq_max={BRANCH + 1}")
        with self._logits_put_back():
            native.seq_gather(self.ctx, self.seq_id, BRANCH, keep)
            branch = KVCache(self.ctx, BRANCH)
            try:
                yield branch
            finally:
                branch.clear()

    def peek(self, n_tokens: int) -> list[int]:
        """The tokens of `look_ahead`; afterwards their cells are removed, and the window and the logits put back."""
        recent, pos = list(self.recent), self.next_position
        with self._logits_put_back(), self._window_put_back(pos):
            try:
                return self.look_ahead(n_tokens)[0]
            finally:
                llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.ctx), self.seq_id, pos, -1)
                self.recent = recent

    @contextmanager
    def _window_put_back(self, pos: int) -> Iterator[None]:
        """Put back what a token at `pos` sees in sliding-window layers, which reuse the cells of older tokens."""
        n_swa = llama_cpp.llama_model_n_swa(llama_cpp.llama_get_model(self.ctx))
        state = native.window_state(self.ctx, self.seq_id) if n_swa else None
        try:
            yield
        finally:
            first = llama_cpp.llama_memory_seq_pos_min(llama_cpp.llama_get_memory(self.ctx), self.seq_id)
            if state is not None and not 0 <= first <= max(0, pos - n_swa + 1):
                native.set_window_state(self.ctx, self.seq_id, state)

    @contextmanager
    def _logits_put_back(self) -> Iterator[None]:
        logits = self.logits.copy()
        try:
            yield
        finally:
            self.logits[:] = logits
