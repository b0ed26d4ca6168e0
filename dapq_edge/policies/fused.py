"""fused: the answer's first tokens, and filler behind them, at the positions of the answer."""

from dataclasses import dataclass

import numpy as np

from ..cache import KVCache
from .base import Queries
from .dapq import DapQ


@dataclass(frozen=True)
class Fused(DapQ):
    """DapQ whose first pseudo queries are the answer itself: what LAQ guesses on an evicted cache, from the full one.

    Before anything is evicted, `n_look_ahead` tokens are generated on a branch that shares all cells. They say what the
    answer begins with, the filler behind them what the rest of it may need.
    """

    name = "fused"
    summary = "cells that the answer's first tokens, and pseudo queries behind them, attend to"

    n_look_ahead: int = 8

    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        with cache.branch() as branch:
            ahead, _ = branch.look_ahead(self.n_look_ahead)
        filler = self.filler(cache, self.n_probe - len(ahead))
        return np.concatenate([ahead, filler]), cache.next_position
