"""laq: a look-ahead on an evicted branch as queries (LAQ, arXiv 2505.20334)."""

from dataclasses import dataclass

from ..cache import KVCache
from .base import ProbingPolicy, Queries
from .snapkv import SnapKV

# tokens of the look-ahead
N_LOOK_AHEAD = 8


@dataclass(frozen=True)
class LAQ(ProbingPolicy):
    """Keep the cells that a guess at the answer attends to (Lookahead Q-Cache, arXiv 2505.20334, section 3).

    `N_LOOK_AHEAD` tokens are generated on a branch that SnapKV has evicted to the same budget, and probed at the
    positions of the answer against the whole cache.
    """

    name = "laq"
    summary = "cells that a guess at the answer attends to (LAQ, arXiv 2505.20334)"

    def n_branch(self, n_keep: int) -> int:
        return n_keep + N_LOOK_AHEAD

    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        with cache.branch(self._first_pass(n_keep).keep(cache, n_keep)) as branch:
            return branch.look_ahead(N_LOOK_AHEAD)[0], cache.next_position

    def _first_pass(self, n_keep: int) -> SnapKV:
        # its window must not be all that it keeps
        n_recent = min(32, n_keep // 2)
        return SnapKV(granularity=self.granularity, n_sink=self.n_sink, n_recent=n_recent, pooling=self.pooling)


@dataclass(frozen=True)
class LAQPlusPlus(LAQ):
    """LAQ with the last `n_recent` tokens of the prompt before the guess (LAQ++, arXiv 2505.20334, section 3)."""

    name = "laq++"
    summary = "laq, and what the last tokens of the prompt attend to (LAQ++, arXiv 2505.20334)"

    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        ahead, pos = super().queries(cache, n_keep)
        window = cache.recent[-self.n_recent :]
        return [*window, *ahead], pos - len(window)
