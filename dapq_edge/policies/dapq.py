"""dapq: pseudo queries at the positions of the answer (DapQ, arXiv 2603.11564)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..cache import KVCache, LayerAttention
from ..native import ProbeType
from ..scores import group_heads, normalize, pool
from .base import ProbingPolicy, Queries


@dataclass(frozen=True)
class DapQ(ProbingPolicy):
    """Keep the cells that pseudo queries at the positions of the answer attend to (arXiv 2603.11564).

    The content of the queries hardly matters, their positions do: `n_probe` random tokens (`seed`) at L..L+n_probe-1,
    where L is the first position of the answer. The paper finds 32 to 64 best. The score of a cell is the largest
    attention of the queries plus its average over `pooling` cells, normalised for each query head; then the mean over
    the query heads of a KV head. It is closer to the full cache than the pooled mean over the queries that the paper
    takes; see README, "What did not work".
    """

    name = "dapq"
    summary = "cells that pseudo queries at the answer's positions attend to (DapQ, arXiv 2603.11564)"
    reduce: ClassVar[ProbeType] = ProbeType.MAX

    # how much the average over the cells around counts, beside a cell's own attention
    pooled: ClassVar[float] = 1.0

    seed: int = 0

    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        return self.filler(cache, self.n_probe), cache.next_position

    def filler(self, cache: KVCache, n_tokens: int) -> npt.NDArray[np.int64]:
        """Random tokens: integers [n_tokens]."""
        return np.random.default_rng(self.seed).integers(cache.n_vocab, size=n_tokens)

    def layer_scores(self, layer: LayerAttention) -> npt.NDArray[np.float32]:
        candidates = slice(self.n_sink, -self.n_recent or None)
        attention = layer.attention + self.pooled * pool(layer.attention, self.pooling)
        return group_heads(normalize(attention, candidates), layer.n_head_kv)
