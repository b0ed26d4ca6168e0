"""tova: the last token as the query (TOVA, arXiv 2401.06104)."""

from dataclasses import dataclass

from .base import ProbingPolicy
from .parts import HeadsOfLayer, LastTokens, Queries, Score


@dataclass(frozen=True)
class TOVA(ProbingPolicy):
    """Keep the cells that the last token attends to, the same in all heads of a layer (arXiv 2401.06104, section 4).

    The paper drops the least attended cell whenever one is added; here once for all that are too many.
    """

    name: str = "tova"
    summary: str = "cells that the last token attends to, in each layer (TOVA, arXiv 2401.06104)"
    queries: Queries = LastTokens(1)
    score: Score = HeadsOfLayer()
    n_sink: int = 0
    n_recent: int = 1
