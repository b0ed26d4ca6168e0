"""compresskv: the retrieval heads of each layer choose for all (CompressKV, arXiv 2508.02401)."""

from dataclasses import dataclass

from .parts import ByError, HeadsOfLayer, LayerBudget, Score
from .snapkv import SnapKV


@dataclass(frozen=True)
class CompressKV(SnapKV):
    """Keep the cells that the semantic retrieval heads attend to, the same in all heads of a layer (arXiv 2508.02401).

    The four best retrieval heads of each layer see the last `n_recent` tokens of the prompt; the layers share the
    budget by the error that eviction made in each of them when the model was calibrated (sections 3.2 and 3.3).
    """

    name: str = "compresskv"
    summary: str = "cells that the retrieval heads attend to, more where eviction hurts (CompressKV, arXiv 2508.02401)"
    score: Score = HeadsOfLayer(width=5, n_heads=4)
    layer_budget: LayerBudget = ByError()
    n_recent: int = 8
