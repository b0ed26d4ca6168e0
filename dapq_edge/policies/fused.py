"""fused: the answer's first tokens, and filler behind them, at the positions of the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..cache import KVCache, LayerAttention
from ..heads import HeadProfile
from ..scores import Scores, best_heads, pool
from ..select import top_cells
from .base import Queries
from .dapq import DapQ

# share of the budget that the retrieval heads choose for all heads
RETRIEVED = 0.25


@dataclass(frozen=True)
class Fused(DapQ):
    """DapQ whose first pseudo queries are the answer itself: what LAQ guesses on an evicted cache, from the full one.

    Before anything is evicted, `n_look_ahead` tokens are generated on a branch that shares all cells. They say what the
    answer begins with, the filler behind them what the rest of it may need. With a head profile, the retrieval heads of
    CompressKV choose a quarter of the cells, for all heads.
    """

    name = "fused"
    summary = "cells that the answer's first tokens, and pseudo queries behind them, attend to"

    gains_by_heads: ClassVar[bool] = True

    n_look_ahead: int = 16

    @property
    def while_reading(self) -> DapQ:
        # what would follow in the middle of a text is not the answer
        shared = (field.name for field in fields(DapQ))
        return DapQ(**{name: getattr(self, name) for name in shared})

    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        with cache.branch() as branch:
            ahead, _ = branch.look_ahead(self.n_look_ahead)
        filler = self.filler(cache, self.n_probe - len(ahead))
        return np.concatenate([ahead, filler]), cache.next_position

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        layers = self.probe(cache, n_keep)
        scores = [self.layer_scores(layer) for layer in layers]
        if self.heads:
            seen, always = retrieved(layers, self.heads)[np.newaxis], self.n_sink + self.n_recent
            n_chosen = always + int(RETRIEVED * (n_keep - always))
            (chosen,) = top_cells(seen, n_chosen, self.n_sink, self.n_recent)
            for layer in scores:
                # more than any normalised score
                layer[:, chosen] += 2
        return scores


def retrieved(layers: Sequence[LayerAttention], heads: HeadProfile) -> npt.NDArray[np.float32]:
    """What the best retrieval heads of the model attend to, summed and pooled over 7 cells: float32 [cells]."""
    return pool(np.sum(best_heads(layers, heads), axis=0), 7)
