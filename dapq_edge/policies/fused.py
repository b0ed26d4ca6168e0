"""fused: the answer's first tokens, and filler behind them, at the positions of the answer."""

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from ..cache import KVCache
from .base import Queries
from .dapq import DapQ


@dataclass(frozen=True)
class Fused(DapQ):
    """DapQ whose first pseudo queries are the answer itself: what LAQ guesses on an evicted cache, from the full one.

    Before anything is evicted, `n_look_ahead` tokens are generated, and forgotten again. They say what the answer
    begins with, the filler behind them what the rest of it may need. Queries that know what they look for need less of
    the words around it. Every part was varied; see README, "What fused is made of".
    """

    name = "fused"
    summary = "cells that the answer's first tokens, and pseudo queries behind them, attend to"
    n_probe: ClassVar[int] = 64
    pooled: ClassVar[float] = 0.25

    n_look_ahead: int = 32

    @property
    def while_reading(self) -> DapQ:
        # what would follow in the middle of a text is not the answer
        shared = (field.name for field in fields(DapQ))
        return DapQ(**{name: getattr(self, name) for name in shared})

    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        ahead, _ = cache.peek(self.n_look_ahead)
        filler = self.filler(cache, self.n_probe - len(ahead))
        return np.concatenate([ahead, filler]), cache.next_position
