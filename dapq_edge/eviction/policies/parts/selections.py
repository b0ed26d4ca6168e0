"""Selections: which cells are kept with given scores."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ....cache.sequence import Keep
from ...score import Scores
from ...select import select
from .owner import Owner


class Selection(ABC):
    """A way to choose cells by their scores. `policy` is the one that it is a part of."""

    @abstractmethod
    def cells(self, policy: Owner, scores: Scores, n_keep: Sequence[int]) -> Keep:
        """Return the cells that are kept. n_keep: how many in each layer."""


@dataclass(frozen=True)
class Best(Selection):
    """The sinks, the recent cells, and the best others."""

    def cells(self, policy: Owner, scores: Scores, n_keep: Sequence[int]) -> Keep:
        return select(scores, n_keep, policy.n_sink, policy.n_recent, policy.granularity)


@dataclass(frozen=True)
class BestAndRecentHalf(Selection):
    """Recent cells for half of the budget, and the best others (H2O, section 4)."""

    def cells(self, policy: Owner, scores: Scores, n_keep: Sequence[int]) -> Keep:
        return select(scores, n_keep, policy.n_sink, min(n_keep) // 2, policy.granularity)
