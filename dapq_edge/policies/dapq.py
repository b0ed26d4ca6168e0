"""dapq: pseudo queries at the positions of the answer (DapQ, arXiv 2603.11564)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..cache import KVCache, LayerAttention
from ..native import ProbeType
from ..scores import Scores, group_heads, normalize, pool
from .base import ScoringPolicy


@dataclass(frozen=True)
class DapQ(ScoringPolicy):
    """Keep the cells that pseudo queries at the positions of the answer attend to (arXiv 2603.11564).

    The content of the queries hardly matters, their positions do: `n_probe` random tokens (`seed`) at L..L+n_probe-1,
    where L is the first position of the answer. The paper finds 32 to 64 best. The score of a cell is the largest
    attention of the queries plus its average over `pooling` cells, normalised for each query head; then the mean over
    the query heads of a KV head. It is closer to the full cache than the pooled mean over the queries that the paper
    takes; see README, "What did not work".
    """

    name = "dapq"
    summary = "cells that pseudo queries at the answer's positions attend to (DapQ, arXiv 2603.11564)"
    n_probe: ClassVar[int] = 32
    skims: ClassVar[bool] = True

    pooling: int = 5
    seed: int = 0

    def check(self, cache: KVCache) -> None:
        super().check(cache)
        cache.probed_heads()

    def scores(self, cache: KVCache) -> Scores:
        tokens = np.random.default_rng(self.seed).integers(cache.n_vocab, size=self.n_probe)
        # a layer that reads the cells of another one has none of its own
        own = cache.gathered_heads()
        layers = cache.probe(tokens, cache.next_position, ProbeType.MAX)
        return [self._layer_scores(layer) for layer in layers if layer.layer in own]

    def _layer_scores(self, layer: LayerAttention) -> npt.NDArray[np.float32]:
        candidates = slice(self.n_sink, -self.n_recent or None)
        attention = layer.attention + pool(layer.attention, self.pooling)
        return group_heads(replace(layer, attention=normalize(attention, candidates)))
