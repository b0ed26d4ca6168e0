"""oracle: the answer itself as queries, for study."""

from dataclasses import dataclass

from .base import ProbingPolicy
from .parts import AtAnswer, Normalized, Queries, Score


@dataclass(frozen=True)
class Oracle(ProbingPolicy):
    """Keep the cells that the next 48 tokens of the full cache's own greedy answer attend to: a limit.

    As long as the answer is no longer than that, nothing that sees less of it chooses better with the same scores.
    """

    name: str = "oracle"
    summary: str = "cells that the full cache's own answer attends to, the limit of what can be guessed"
    queries: Queries = AtAnswer(48, n_look_ahead=48, filler=None)
    score: Score = Normalized()
