"""What a policy can know of a prompt before it evicts, and the scores of fused."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dapq_edge.cells import N_RECENT, N_SINK
from dapq_edge.eviction.heads import HeadProfile
from dapq_edge.eviction.score import group_heads, normalize, pool
from dapq_edge.eviction.select import top_cells

from .reading import Reading
from .transformer import Cache, Cells, LayerSeen, as_f16

# for each layer, the cells that each KV head keeps: integers, ascending; heads may keep other numbers of them
Keep = list[list[np.ndarray]]

# for each layer: float32 [KV heads, cells]
Scores = list[np.ndarray]

# for each layer, of each KV head: float32 [cells, head_dim]
Rows = list[list[np.ndarray]]

ALWAYS, CANDIDATES = N_SINK + N_RECENT, slice(N_SINK, -N_RECENT)

# fused's queries: tokens of the answer, and filler behind them; the window of snapkv
N_AHEAD, N_FILLER, N_WINDOW = 32, 32, 32


@dataclass
class Subject:
    """A prompt that was read. profile: which of the model's heads find facts."""

    reading: Reading
    profile: HeadProfile

    @property
    def n(self) -> int:
        return self.reading.n

    @property
    def n_group(self) -> int:
        return self.reading.model.n_group

    @property
    def layers(self) -> list[int]:
        """Those that are evicted."""
        return self.reading.model.full_layers

    @cached_property
    def k(self) -> list[np.ndarray]:
        """Of each layer: float32 [KV heads, cells, head_dim]."""
        return [self.reading.k[il] for il in self.layers]

    @cached_property
    def v(self) -> list[np.ndarray]:
        return [self.reading.v[il] for il in self.layers]

    @cached_property
    def seen(self) -> list[LayerSeen]:
        """What fused's queries do."""
        return self.probe(N_AHEAD, N_FILLER)

    def probe(self, n_ahead: int, n_filler: int) -> list[LayerSeen]:
        ahead = self.reading.answer[:n_ahead]
        n_filler += n_ahead - len(ahead)
        filler = np.random.default_rng(0).integers(self.reading.model.n_vocab, size=n_filler)
        return self.reading.probe(np.concatenate([ahead, filler]))

    @cached_property
    def window(self) -> Scores:
        """Attention of the last tokens of the prompt: float32 [query heads, queries, cells]; to themselves, 0."""
        seen = self.reading.probe(self.reading.tokens[-N_WINDOW:], self.n - N_WINDOW)
        return [np.pad(np.concatenate(layer.attention), ((0, 0), (0, 0), (0, N_WINDOW))) for layer in seen]

    @cached_property
    def attention(self) -> Scores:
        """Attention of fused's queries: float32 [query heads, queries, cells]."""
        return [np.concatenate(layer.attention) for layer in self.seen]

    @cached_property
    def raw(self) -> Scores:
        """Fused's score, before query heads are normalised."""
        return [self._grouped(_pooled(layer.max(axis=1))) for layer in self.attention]

    @cached_property
    def fused(self) -> Scores:
        return self.scores(self.attention)

    def scores(self, attention: Scores) -> Scores:
        """Fused's score of the attention of other queries: [query heads, queries, cells] of each layer."""
        return [self._grouped(normalize(_pooled(layer.max(axis=1)), CANDIDATES)) for layer in attention]

    def _grouped(self, scores: np.ndarray) -> np.ndarray:
        return group_heads(scores, self.reading.model.n_head_kv)

    def cache(self, keep: Keep, k: Rows | None = None, v: Rows | None = None, log_weight: Rows | None = None) -> Cache:
        """The cells in `keep`, or with other K and V."""
        cache = {}
        for i, il in enumerate(self.layers):
            cache[il] = [
                Cells(
                    as_f16(self.k[i][j, cells] if k is None else k[i][j]),
                    as_f16(self.v[i][j, cells] if v is None else v[i][j]),
                    None if log_weight is None else log_weight[i][j],
                )
                for j, cells in enumerate(keep[i])
            ]
        return cache


def _pooled(attention: np.ndarray) -> np.ndarray:
    return attention + 0.25 * pool(attention, 5)


def top(scores: Scores, n_keep: int | Sequence[int] | Sequence[Sequence[int]]) -> Keep:
    """The best cells. n_keep: of all heads, of each layer, or of each head of each layer."""
    keep = []
    for i, layer in enumerate(scores):
        of_layer = n_keep if isinstance(n_keep, int) else n_keep[i]
        of_heads = [of_layer] * len(layer) if isinstance(of_layer, int) else of_layer
        heads = zip(layer, of_heads, strict=True)
        keep.append([top_cells(head[None], n, N_SINK, N_RECENT)[0] for head, n in heads])
    return keep
