"""full: the stock cache, for comparison."""

from dataclasses import dataclass

import numpy as np

from ..budgets import Budget
from ..cache import KVCache
from ..scores import Scores
from .base import Policy


@dataclass(frozen=True)
class Full(Policy):
    """Keep every cell, whatever the budget is."""

    name = "full"
    summary = "keep every cell, whatever the budget is"

    def scores(self, cache: KVCache) -> Scores:
        return np.ones(cache.n_cells, dtype=np.float32)

    def cells_to_keep(self, budget: Budget, n_cells: int) -> int:
        return n_cells

    # the two below also work for a memory that has no cells

    def check(self, cache: KVCache, budget: Budget, n_prompt: int) -> None:
        pass

    def evict(self, cache: KVCache, budget: Budget) -> int:
        return 0
