"""full: the stock cache, for comparison."""

from dataclasses import dataclass

from ...cache.kv_cache import KVCache
from ..budget import Budget
from .base import Policy


@dataclass(frozen=True)
class Full(Policy):
    """Keep every cell, whatever the budget is."""

    name: str = "full"
    summary: str = "keep every cell, whatever the budget is"

    # all three work for a memory that has no cells, too

    def check(self, cache: KVCache) -> None:
        pass

    def cells_to_keep(self, budget: Budget, n_cells: int) -> int:
        return n_cells

    def evict(self, cache: KVCache, n_keep: int, n_most: int = 0) -> None:
        pass
