"""What all policies share: probe -> score -> budget -> select -> evict."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ..budgets import Budget
from ..cache import KVCache
from ..errors import UsageError
from ..scores import Scores
from ..select import top_cells


@dataclass(frozen=True)
class Policy(ABC):
    """A way to choose the cells that a sequence keeps."""

    name: ClassVar[str]
    summary: ClassVar[str]

    # free cells that the policy needs while it probes
    n_probe: ClassVar[int] = 0

    @abstractmethod
    def check(self, cache: KVCache, budget: Budget, n_prompt: int) -> None:
        """Raise before a prompt is read what `evict` would raise after it: `UsageError`, `UnsupportedModelError`."""

    @abstractmethod
    def evict(self, cache: KVCache, budget: Budget) -> int:
        """Evict the cells of `cache` down to `budget`; returns how many were freed.

        Raises `UsageError` if the budget is below the cells that are always kept.
        """


@dataclass(frozen=True)
class ScoringPolicy(Policy):
    """Keeps the cells with the best scores.

    n_sink, n_recent: cells at the start and at the end that are always kept.
    """

    n_sink: int = 4
    n_recent: int = 8

    @abstractmethod
    def scores(self, cache: KVCache) -> Scores:
        """Score of each cell, higher is better: float32 [cells]. The cache is left as it was."""

    def check(self, cache: KVCache, budget: Budget, n_prompt: int) -> None:
        self.cells_to_keep(budget, n_prompt)
        _ = cache.positions

    def evict(self, cache: KVCache, budget: Budget) -> int:
        n_cells = cache.n_cells
        n_keep = self.cells_to_keep(budget, n_cells)
        if n_keep == n_cells:
            return 0
        return cache.evict(top_cells(self.scores(cache), n_keep, self.n_sink, self.n_recent))

    def cells_to_keep(self, budget: Budget, n_cells: int) -> int:
        always = min(self.n_sink + self.n_recent, n_cells)
        n_keep = budget.cells(n_cells)
        if budget.is_share:
            return max(n_keep, always)
        if n_keep < always:
            raise UsageError(
                f"--kv-budget {budget.amount:g}: {self.name} always keeps {always} cells "
                f"({self.n_sink} sinks, {self.n_recent} recent)"
            )
        return n_keep
