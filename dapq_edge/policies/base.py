"""What all policies share: probe -> score -> budget -> select -> evict."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ..budgets import Budget
from ..cache import Keep, KVCache
from ..errors import UsageError
from ..scores import Scores
from ..select import select


@dataclass(frozen=True)
class Policy(ABC):
    """A way to choose the cells that a sequence keeps."""

    name: ClassVar[str]
    summary: ClassVar[str]

    # free cells that the policy needs while it probes
    n_probe: ClassVar[int] = 0

    # whether a document is skimmed for the parts that a question needs, before it is read
    skims: ClassVar[bool] = False

    @abstractmethod
    def check(self, cache: KVCache) -> None:
        """Raise `UnsupportedModelError` if the model of `cache` cannot be evicted in this way."""

    @abstractmethod
    def cells_to_keep(self, budget: Budget, n_cells: int) -> int:
        """Cells that a sequence of `n_cells` cells keeps. Raises `UsageError` if the budget is too small."""

    @abstractmethod
    def evict(self, cache: KVCache, n_keep: int) -> None:
        """Evict cells of `cache` until it has `n_keep`; it is left alone if it has no more than that."""


@dataclass(frozen=True)
class ScoringPolicy(Policy):
    """Keeps the cells with the best scores.

    granularity: which heads keep the same cells, see `select.GRANULARITIES`.
    n_sink, n_recent: cells at the start and at the end that are always kept.
    """

    granularity: str = "head"
    n_sink: int = 4
    n_recent: int = 8

    @abstractmethod
    def scores(self, cache: KVCache) -> Scores:
        """Score of each cell, for each KV head of each layer of `cache.gathered_heads`. The cache is left as it was."""

    def check(self, cache: KVCache) -> None:
        cache.gathered_heads()

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

    def keep(self, cache: KVCache, n_keep: int) -> Keep:
        """The cells that `evict` keeps. The cache is left as it was."""
        return select(self.scores(cache), n_keep, self.n_sink, self.n_recent, self.granularity)

    def evict(self, cache: KVCache, n_keep: int) -> None:
        self.check(cache)
        if n_keep < cache.n_cells:
            cache.evict(self.keep(cache, n_keep))
