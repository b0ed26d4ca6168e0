"""oracle: the answer itself as queries, for study."""

from dataclasses import dataclass
from typing import ClassVar

from ..cache import KVCache
from .base import Queries
from .dapq import DapQ


@dataclass(frozen=True)
class Oracle(DapQ):
    """Keep the cells that the next `n_probe` tokens of the full cache's own greedy answer attend to: a limit.

    As long as the answer is no longer than that, nothing that sees less of it chooses better with the same scores.
    """

    name = "oracle"
    summary = "cells that the full cache's own answer attends to, the limit of what can be guessed"
    n_probe: ClassVar[int] = 48

    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        return cache.peek(self.n_probe)[0], cache.next_position
