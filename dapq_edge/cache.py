"""One sequence's KV cache: read, probe, evict, usage."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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


@dataclass(frozen=True)
class Record:
    """What `KVCache` knows of its cells beside llama.cpp: its attributes of the same names."""

    tokens: list[int]
    kept: Keep
    n_gathered: int


class KVCache:
    """The cells of one sequence of a llama.cpp context.

    A cell is a slot of the KV cache: one position, all layers. Cells are counted from 0 in ascending position. After an
    eviction, a cell holds other tokens in each layer and KV head.

    tokens: all that were read, in order; the n-th one has position n.
    kept: after an eviction, which of the first `n_gathered` tokens each KV head still has, see `Keep`.
    """

    def __init__(self, ctx: llama_cpp.llama_context_p, seq_id: int = 0) -> None:
        self.ctx = ctx
        self.seq_id = seq_id
        self.tokens: list[int] = []
        self.kept: Keep = []
        self.n_gathered = 0

    @property
    def recent(self) -> list[int]:
        """The tokens that were read since the last eviction. They are the ones of the last cells."""
        return self.tokens[self.n_gathered :]

    @property
    def n_missing(self) -> list[int]:
        """How many of the first cells each layer lacks, in the order of `gathered_heads`; empty if none is evicted."""
        n_cells = [heads.shape[-1] for heads in self.kept]
        return [max(n_cells) - n for n in n_cells]

    @property
    def n_used(self) -> int:
        """Cells of the sequence, counted without llama.cpp."""
        n_kept = max((heads.shape[-1] for heads in self.kept), default=0)
        return n_kept + len(self.tokens) - self.n_gathered

    @property
    def record(self) -> Record:
        """To be kept with a state that llama.cpp saves, and set again when that is loaded."""
        return Record(list(self.tokens), list(self.kept), self.n_gathered)

    @record.setter
    def record(self, record: Record) -> None:
        self.tokens, self.kept, self.n_gathered = list(record.tokens), list(record.kept), record.n_gathered

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
        self.tokens, self.kept, self.n_gathered = [], [], 0
        self._remove(-1)

    @property
    def is_recurrent(self) -> bool:
        """Whether layers hold one state of all tokens, which cannot forget the last ones."""
        model = llama_cpp.llama_get_model(self.ctx)
        return llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model)

    def truncate(self, n_tokens: int) -> None:
        """Forget all tokens after the first `n_tokens`. Raises ValueError if some of those were evicted.

        Recurrent layers keep their state; see `native.set_partial_state`.
        """
        if n_tokens < self.n_gathered:
            raise ValueError(f"{self.n_gathered} tokens were evicted together, so that {n_tokens} cannot stay")
        del self.tokens[n_tokens:]
        if self.is_recurrent:
            # a model without attention has no cells
            with suppress(UnsupportedModelError):
                native.seq_remove(self.ctx, self.seq_id, self.positions[self.positions >= n_tokens])
        else:
            self._remove(n_tokens)

    def _remove(self, pos: int) -> None:
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.ctx), self.seq_id, pos, -1)

    def read(self, tokens: Sequence[int] | npt.NDArray) -> None:
        """Evaluate `tokens` after the last cell; the logits of the last one stay in the context.

        Raises as `native.decode` does.
        """
        native.decode(self.ctx, self.seq_id, tokens, self.next_position)
        self.tokens += map(int, tokens)

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
        self.kept = self._tokens_of(keep)
        self.n_gathered = len(self.tokens)

    def _tokens_of(self, cells: Keep) -> Keep:
        """Which tokens are in `cells`."""
        if not self.kept:
            return list(cells)
        recent = np.arange(self.n_gathered, len(self.tokens))
        tokens = [np.hstack([heads, np.tile(recent, (len(heads), 1))]) for heads in self.kept]
        layers = zip(tokens, cells, self.n_missing, strict=True)
        return [np.take_along_axis(layer, indices - n, axis=1) for layer, indices, n in layers]

    def share_of_heads(self, layer: int | None = None) -> npt.NDArray[np.float64]:
        """For each token, the share of all KV heads, or of those of the `layer`-th evicted layer, that have it."""
        share = np.ones(len(self.tokens))
        if self.kept:
            layers = self.kept if layer is None else [self.kept[layer]]
            held = np.concatenate([heads.ravel() for heads in layers])
            n_heads = sum(len(heads) for heads in layers)
            share[: self.n_gathered] = np.bincount(held, minlength=self.n_gathered) / n_heads
        return share

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

    def peek(self, n_tokens: int) -> tuple[list[int], float]:
        """What `look_ahead` gives; afterwards its cells are removed, and windows, states and logits put back."""
        pos = self.next_position
        with self._logits_put_back(), self._state_put_back(pos):
            try:
                return self.look_ahead(n_tokens)
            finally:
                self.truncate(pos)

    @contextmanager
    def _state_put_back(self, pos: int) -> Iterator[None]:
        """Put back what a token at `pos` sees in recurrent and in sliding-window layers.

        The latter reuse the cells of older tokens.
        """
        n_swa = llama_cpp.llama_model_n_swa(llama_cpp.llama_get_model(self.ctx))
        state = native.partial_state(self.ctx, self.seq_id) if n_swa or self.is_recurrent else None
        try:
            yield
        finally:
            first = llama_cpp.llama_memory_seq_pos_min(llama_cpp.llama_get_memory(self.ctx), self.seq_id)
            if state is not None and (self.is_recurrent or not 0 <= first <= max(0, pos - n_swa + 1)):
                native.set_partial_state(self.ctx, self.seq_id, state)

    @contextmanager
    def _logits_put_back(self) -> Iterator[None]:
        logits = self.logits.copy()
        try:
            yield
        finally:
            self.logits[:] = logits
