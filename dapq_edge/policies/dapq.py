"""dapq: pseudo queries at the positions of the answer (DapQ, arXiv 2603.11564)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import llama_cpp
import numpy as np

from ..budgets import Budget
from ..cache import KVCache
from ..scores import Scores, pool, share_cells
from .base import ScoringPolicy


@dataclass(frozen=True)
class DapQ(ScoringPolicy):
    """Keep the cells that pseudo queries at the positions of the answer attend to (arXiv 2603.11564).

    The content of the queries hardly matters, their positions do: `n_probe` random tokens (`seed`) at L..L+n_probe-1,
    where L is the first position of the answer. The paper finds 32 to 64 best. Scores are means over the queries,
    average pooling of width `pooling`.
    """

    name = "dapq"
    summary = "cells that pseudo queries at the answer's positions attend to (DapQ, arXiv 2603.11564)"
    n_probe: ClassVar[int] = 32

    pooling: int = 5
    seed: int = 0

    def check(self, cache: KVCache, budget: Budget, n_prompt: int) -> None:
        super().check(cache, budget, n_prompt)
        cache.probed_heads()

    def scores(self, cache: KVCache) -> Scores:
        vocab = llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(cache.ctx))
        rng = np.random.default_rng(self.seed)
        tokens = rng.integers(llama_cpp.llama_vocab_n_tokens(vocab), size=self.n_probe)
        layers = cache.probe(tokens, int(cache.positions[-1]) + 1)
        pooled = [replace(layer, attention=pool(layer.attention, self.pooling)) for layer in layers]
        return share_cells(pooled, slice(self.n_sink, -self.n_recent or None))
