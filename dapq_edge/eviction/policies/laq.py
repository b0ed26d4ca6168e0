"""laq: a look-ahead on an evicted branch as queries (LAQ, arXiv 2505.20334)."""

from dataclasses import dataclass

from .base import ProbingPolicy
from .parts import BranchLookAhead, Pooled, Queries, Score
from .snapkv import SnapKV


@dataclass(frozen=True)
class LAQ(ProbingPolicy):
    """Keep the cells that a guess at the answer attends to (Lookahead Q-Cache, arXiv 2505.20334, section 3).

    Eight tokens are generated on a branch that SnapKV has evicted to the same budget, and probed at the positions of
    the answer against the whole cache.
    """

    name: str = "laq"
    summary: str = "cells that a guess at the answer attends to (LAQ, arXiv 2505.20334)"
    queries: Queries = BranchLookAhead()
    score: Score = Pooled()

    def first_pass(self, n_keep: int) -> SnapKV:
        # its window must not be all that it keeps
        n_recent = min(32, n_keep // 2)
        return SnapKV(granularity=self.granularity, n_sink=self.n_sink, n_recent=n_recent, score=self.score)


@dataclass(frozen=True)
class LAQPlusPlus(LAQ):
    """LAQ with the last `n_recent` tokens of the prompt before the guess (LAQ++, arXiv 2505.20334, section 3)."""

    name: str = "laq++"
    summary: str = "laq, and what the last tokens of the prompt attend to (LAQ++, arXiv 2505.20334)"
    queries: Queries = BranchLookAhead(with_window=True)
