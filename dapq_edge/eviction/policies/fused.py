"""fused: the answer's first tokens, and filler behind them, at the positions of the answer."""

from dataclasses import dataclass

from .base import ProbingPolicy
from .dapq import DapQ
from .parts import AtAnswer, BySensitivity, LayerBudget, Normalized, Queries, Refitted, Score, Values


@dataclass(frozen=True)
class Fused(ProbingPolicy):
    """DapQ whose first pseudo queries are the answer itself: what LAQ guesses on an evicted cache, from the full one.

    Before anything is evicted, 48 tokens are generated. They say what the answer begins with, 16 tokens of filler
    behind them what the rest of it may need; an answer that goes the same way begins with them, see
    `KVCache.foresee`. Queries that know what they look for need less of the words around it. Layers keep more where the
    calibration of the model found that eviction does harm, and the values that stay are fitted to what the queries read
    from all cells. Every part was varied; see docs/ablations.md.
    """

    name: str = "fused"
    summary: str = "cells that the answer's first tokens, and pseudo queries behind them, attend to"
    queries: Queries = AtAnswer(64, n_look_ahead=48)
    score: Score = Normalized(pooled=0.25)
    layer_budget: LayerBudget = BySensitivity()
    values: Values = Refitted()

    @property
    def while_reading(self) -> DapQ:
        # what would follow in the middle of a text is not the answer
        return DapQ(
            granularity=self.granularity,
            heads=self.heads,
            n_sink=self.n_sink,
            n_recent=self.n_recent,
            layer_budget=self.layer_budget,
        )
