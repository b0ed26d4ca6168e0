"""full: the stock cache, for comparison."""

from dataclasses import dataclass

from ..budgets import Budget
from ..cache import KVCache
from .base import Policy


@dataclass(frozen=True)
class Full(Policy):
    """Keep every cell, whatever the budget is."""

    name = "full"
    summary = "keep every cell, whatever the budget is"

    # both work for a memory that has no cells, too

    def check(self, cache: KVCache, budget: Budget, n_prompt: int) -> None:
        pass

    def evict(self, cache: KVCache, budget: Budget) -> int:
        return 0
