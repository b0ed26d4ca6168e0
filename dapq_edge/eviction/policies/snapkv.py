"""snapkv: the end of the prompt as queries (SnapKV, arXiv 2404.14469)."""

from dataclasses import dataclass

from .base import ProbingPolicy
from .parts import LastTokens, Pooled, Queries, Score


@dataclass(frozen=True)
class SnapKV(ProbingPolicy):
    """Keep the cells that the last `n_recent` tokens of the prompt attend to, and these themselves (arXiv 2404.14469).

    The mean over the queries, its average over 5 cells, the mean over the query heads of a KV head (section 4). After a
    gap or an eviction, the window has only the tokens behind it.
    """

    name: str = "snapkv"
    summary: str = "cells that the last tokens of the prompt attend to (SnapKV, arXiv 2404.14469)"
    queries: Queries = LastTokens()
    score: Score = Pooled()
    n_recent: int = 32
