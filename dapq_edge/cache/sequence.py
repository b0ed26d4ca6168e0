"""The ledger of a sequence: which tokens it has, where they stand, and which cells are left of them. Pure numpy."""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

# for each evicted layer, the cells (or positions) that each KV head keeps: integers [KV heads, cells], ascending in a
# row
Keep = list[npt.NDArray[np.intp]]

# for each evicted layer, a number of each cell, for each KV head: float32 [KV heads, cells]
Marks = list[npt.NDArray[np.float32]]


def _no_tokens() -> npt.NDArray[np.int32]:
    return np.empty(0, dtype=np.int32)


def _no_positions() -> npt.NDArray[np.intp]:
    return np.empty(0, dtype=np.intp)


@dataclass(frozen=True)
class Sequence:
    """Contents of the cells of one sequence. It never changes: each step gives a new one.

    A text is read token by token into positions 0, 1, ...; parts of it may be skipped. An eviction keeps some of the
    positions, other ones in each KV head of each layer; those cells then stand first, in the order of their positions.

    Attributes:
        text: Token ids, those of skipped parts too: int32 [n_tokens].
        text_index: Which token of the text each position is: integers [n_positions], ascending.
        kept: After an eviction, which of the first `n_compacted` positions each KV head still has, see `Keep`.
        n_compacted: Positions before the last eviction.
        n_frozen: Tokens at the start of the text that only stay or go together, because some of them are lost.
        logits_at_eviction: Of the last token before the last eviction: float32 [n_vocab], or None.
        attention_kept: The share of the attention that the cells of the last eviction hold, see `score.attention_kept`.
        has_document: Whether the text has a part that is long enough to be read again for a question.
        pinned: Which tokens of the text are never evicted: integers, ascending.
        marks: What a policy knows of the first cells of each layer that can be evicted, see `Marks`.
    """

    text: npt.NDArray[np.int32] = field(default_factory=_no_tokens)
    text_index: npt.NDArray[np.intp] = field(default_factory=_no_positions)
    kept: Keep = field(default_factory=list)
    n_compacted: int = 0
    n_frozen: int = 0
    logits_at_eviction: npt.NDArray[np.float32] | None = None
    attention_kept: float | None = None
    has_document: bool = False
    pinned: npt.NDArray[np.intp] = field(default_factory=_no_positions)
    marks: Marks = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        """Tokens of the text."""
        return len(self.text)

    @property
    def n_positions(self) -> int:
        """Tokens that were read; the next one gets this position."""
        return len(self.text_index)

    @property
    def n_skipped(self) -> int:
        """Tokens that were not read."""
        return self.n_tokens - self.n_positions

    @property
    def n_cells(self) -> int:
        """Cells of the layer that has most."""
        n_kept = max((heads.shape[-1] for heads in self.kept), default=0)
        return n_kept + self.n_positions - self.n_compacted

    @property
    def n_missing(self) -> list[int]:
        """Number of first cells that each evicted layer lacks; empty before an eviction."""
        n_cells = [heads.shape[-1] for heads in self.kept]
        return [max(n_cells) - n for n in n_cells]

    @property
    def recent(self) -> npt.NDArray[np.int32]:
        """The tokens that were read since the last eviction, those of the last cells: int32 [tokens]."""
        return self.text[self.text_index[self.n_compacted :]]

    def n_same(self, tokens: Tokens[int]) -> int:
        """Return how many tokens the text and `tokens` both begin with."""
        n_both = min(self.n_tokens, len(tokens))
        is_other = np.flatnonzero(self.text[:n_both] != np.array(tokens[:n_both], dtype=self.text.dtype))
        return int(is_other[0]) if is_other.size else n_both

    def append(self, tokens: Tokens[int] | npt.NDArray[Any]) -> "Sequence":
        """Read tokens behind the text."""
        new = np.asarray(tokens, dtype=np.int32)
        index = np.arange(self.n_tokens, self.n_tokens + len(new))
        return replace(self, text=np.concatenate([self.text, new]), text_index=np.concatenate([self.text_index, index]))

    def truncate(self, n_tokens: int) -> "Sequence":
        """Forget all tokens after the first `n_tokens`. Raises ValueError if some of those that stay are lost."""
        if n_tokens < self.n_frozen:
            raise ValueError(f"{self.n_frozen} tokens only go together, so that {n_tokens} cannot stay")
        n_positions = int(np.searchsorted(self.text_index, n_tokens))
        return replace(
            self,
            text=self.text[:n_tokens],
            text_index=self.text_index[:n_positions],
            pinned=self.pinned[self.pinned < n_tokens],
            marks=[layer[:, :n] for layer, n in zip(self.marks, self._n_cells_at(n_positions), strict=False)],
        )

    def place(
        self,
        text: Tokens[int] | npt.NDArray[Any],
        text_index: npt.NDArray[np.intp],
        logits: npt.NDArray[np.float32] | None = None,
    ) -> "Sequence":
        """Say that what was read is a part of a longer text, whose other tokens were skipped.

        Args:
            text: All tokens, int32 [n_tokens].
            text_index: Which of them each position is: integers [n_positions], ascending.
            logits: Of the last token, float32 [n_vocab].

        Raises ValueError if the positions hold other tokens.
        """
        whole, index = np.asarray(text, dtype=np.int32), np.asarray(text_index, dtype=np.intp)
        if not np.array_equal(whole[index], self.text[self.text_index]):
            raise ValueError("the positions hold other tokens than the text has there")
        if len(whole) == len(index):
            return self
        return replace(self, text=whole, text_index=index, n_frozen=len(whole), logits_at_eviction=logits)

    def compact(
        self, cells: Keep, logits: npt.NDArray[np.float32] | None = None, attention_kept: float | None = None
    ) -> "Sequence":
        """Keep only some cells, which move to the front.

        Args:
            cells: Indices of cells in the order of their positions, counted in the layer that has most, see `Keep`.
            logits: Of the last token, float32 [n_vocab].
            attention_kept: The share of the attention that `cells` hold, 0 to 1.
        """
        return replace(
            self,
            kept=self._positions_of(cells),
            n_compacted=self.n_positions,
            n_frozen=self.n_tokens,
            logits_at_eviction=logits,
            attention_kept=attention_kept,
            marks=self._marks_of(cells),
        )

    def _n_cells_at(self, n_positions: int) -> list[int]:
        """Return the cells that each evicted layer has of the first `n_positions` positions, all of those kept."""
        n_kept = [heads.shape[-1] for heads in self.kept] or [0] * len(self.marks)
        return [n + n_positions - self.n_compacted for n in n_kept]

    def _marks_of(self, cells: Keep) -> Marks:
        """Return the marks of `cells`, see `compact`; none if some of the cells had none."""
        if not self.marks or [layer.shape[1] for layer in self.marks] != self._n_cells_at(self.n_positions):
            return []
        layers = zip(self.marks, cells, self.n_missing or [0] * len(cells), strict=True)
        return [np.take_along_axis(layer, indices - n, axis=1) for layer, indices, n in layers]

    def _positions_of(self, cells: Keep) -> Keep:
        if not self.kept:
            return [np.asarray(heads, dtype=np.intp) for heads in cells]
        layers = zip(self._held(), cells, self.n_missing, strict=True)
        return [np.take_along_axis(layer, indices - n, axis=1) for layer, indices, n in layers]

    def cells_of(self, tokens: npt.NDArray[np.intp], n_heads: Tokens[int]) -> list[npt.NDArray[np.bool_]]:
        """Return which cells hold some of the tokens, for each evicted layer: bool [KV heads, cells].

        Args:
            tokens: Which of the text: integers.
            n_heads: KV heads of each layer that can be evicted.
        """
        is_wanted = np.isin(self.text_index, tokens)
        if not self.kept:
            return [np.tile(is_wanted, (n, 1)) for n in n_heads]
        return [is_wanted[held] for held in self._held()]

    def tokens_of_cells(self) -> list[npt.NDArray[np.intp]]:
        """Return which token of the text each cell holds, for each evicted layer: integers [KV heads, n_cells].

        Cells are counted in the layer that has most; where another one has none, it is -1.
        """
        layers = zip(self._held(), self.n_missing, strict=True)
        return [np.pad(self.text_index[held], ((0, 0), (n, 0)), constant_values=-1) for held, n in layers]

    def _held(self) -> Keep:
        """Return the positions that the cells of each evicted layer hold: integers [KV heads, cells]."""
        recent = np.arange(self.n_compacted, self.n_positions)
        return [np.hstack([heads, np.tile(recent, (len(heads), 1))]) for heads in self.kept]

    def coverage(self, layer: int | None = None) -> npt.NDArray[np.float64]:
        """Return the share of KV heads that have each token of the text: [n_tokens], 0 to 1.

        Args:
            layer: Only the heads of this evicted layer, counted from 0.
        """
        of_positions = np.ones(self.n_positions)
        if self.kept:
            layers = self.kept if layer is None else [self.kept[layer]]
            held = np.concatenate([heads.ravel() for heads in layers])
            n_heads = sum(len(heads) for heads in layers)
            of_positions[: self.n_compacted] = np.bincount(held, minlength=self.n_compacted) / n_heads
        share = np.zeros(self.n_tokens)
        share[self.text_index] = of_positions
        return share

    def pack(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return its plain values, for JSON, and its arrays; lists of arrays have a number behind their name."""
        values: dict[str, Any] = {}
        arrays: dict[str, npt.NDArray[Any]] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, np.ndarray):
                arrays[part.name] = value
            elif isinstance(value, list):
                arrays |= {f"{part.name}{i}": array for i, array in enumerate(value)}
                values[part.name] = len(value)
            else:
                values[part.name] = value
        return values, arrays

    @classmethod
    def unpack(cls, values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> "Sequence":
        """Return the sequence of which `pack` gave these. Raises KeyError if a part is missing."""
        found: dict[str, Any] = {}
        for part in fields(cls):
            if part.name in arrays:
                found[part.name] = arrays[part.name]
            elif part.type in (Keep, Marks):
                # a file of before has none
                found[part.name] = [arrays[f"{part.name}{i}"] for i in range(values.get(part.name, 0))]
            else:
                found[part.name] = values[part.name]
        return cls(**found)
