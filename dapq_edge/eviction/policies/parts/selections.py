"""Selections: which cells are kept with given scores."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ....cache.sequence import Keep
from ...score import Scores
from ...select import Pinned, n_most_pinned, select
from .owner import Owner


class Selection(ABC):
    """A way to choose cells by their scores. `policy` is the one that it is a part of."""

    @abstractmethod
    def cells(self, policy: Owner, scores: Scores, n_keep: Sequence[int], pinned: Pinned) -> Keep:
        """Return the cells that are kept. n_keep: how many in each layer. pinned: which of them must be."""


@dataclass(frozen=True)
class Best(Selection):
    """The sinks, the recent cells, and the best others."""

    def cells(self, policy: Owner, scores: Scores, n_keep: Sequence[int], pinned: Pinned) -> Keep:
        return select(scores, n_keep, policy.n_sink, policy.n_recent, policy.granularity, pinned)


@dataclass(frozen=True)
class BestAndRecentHalf(Selection):
    """Recent cells for half of the budget, and the best others (H2O, section 4)."""

    def cells(self, policy: Owner, scores: Scores, n_keep: Sequence[int], pinned: Pinned) -> Keep:
        n_free = min(n_keep) - policy.n_sink - n_most_pinned(pinned)
        n_recent = max(policy.n_recent, min(min(n_keep) // 2, n_free))
        return select(scores, n_keep, policy.n_sink, n_recent, policy.granularity, pinned)
