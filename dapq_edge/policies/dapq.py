"""dapq: pseudo queries at the positions of the answer (DapQ, arXiv 2603.11564)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..cache import KVCache
from ..scores import Scores, group_heads, pool
from .base import ScoringPolicy


@dataclass(frozen=True)
class DapQ(ScoringPolicy):
    """Keep the cells that pseudo queries at the positions of the answer attend to (arXiv 2603.11564).

    The content of the queries hardly matters, their positions do: `n_probe` random tokens (`seed`) at L..L+n_probe-1,
    where L is the first position of the answer. The paper finds 32 to 64 best. Scores are means over the queries,
    average pooling of width `pooling`, means over the query heads of a KV head.
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
        layers = [layer for layer in cache.probe(tokens, cache.next_position) if layer.layer in own]
        return [group_heads(replace(layer, attention=pool(layer.attention, self.pooling))) for layer in layers]
