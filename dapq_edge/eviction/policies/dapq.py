"""dapq: pseudo queries at the positions of the answer (DapQ, arXiv 2603.11564)."""

from dataclasses import dataclass

from .base import ProbingPolicy
from .parts import AtAnswer, Normalized, Queries, Score


@dataclass(frozen=True)
class DapQ(ProbingPolicy):
    """Keep the cells that pseudo queries at the positions of the answer attend to (arXiv 2603.11564).

    The content of the queries hardly matters, their positions do: 32 random tokens at L..L+31, where L is the first
    position of the answer. The paper finds 32 to 64 best. The score of a cell is the largest attention of the queries
    plus its average over 5 cells, normalised for each query head; then the mean over the query heads of a KV head. It
    is closer to the full cache than the pooled mean over the queries that the paper takes; see docs/ablations.md.
    """

    name: str = "dapq"
    summary: str = "cells that pseudo queries at the answer's positions attend to (DapQ, arXiv 2603.11564)"
    queries: Queries = AtAnswer(32)
    score: Score = Normalized()
