"""compresskv: the retrieval heads of each layer choose for all (CompressKV, arXiv 2508.02401)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..budgets import by_error
from ..cache import LayerAttention
from ..scores import pool
from .snapkv import SnapKV


@dataclass(frozen=True)
class CompressKV(SnapKV):
    """Keep the cells that the semantic retrieval heads attend to, the same in all heads of a layer (arXiv 2508.02401).

    The `n_heads` best retrieval heads of each layer see the last `n_recent` tokens of the prompt; the layers share the
    budget by the error that eviction made in each of them when the model was calibrated (sections 3.2 and 3.3).
    """

    name = "compresskv"
    summary = "cells that the retrieval heads attend to, more where eviction hurts (CompressKV, arXiv 2508.02401)"
    needs_heads: ClassVar[bool] = True
    max_share: ClassVar[float] = 1.6
    min_share: ClassVar[float] = 0.5

    n_recent: int = 8
    n_heads: int = 4

    def layer_scores(self, layer: LayerAttention) -> npt.NDArray[np.float32]:
        assert self.heads is not None
        best = layer.attention[self.heads.top_heads(layer.layer, self.n_heads)]
        return np.tile(pool(best, self.pooling).mean(axis=0), (layer.n_head_kv, 1))

    def layer_budgets(self, n_keep: int, n_cells: int, layers: list[int]) -> list[int]:
        assert self.heads is not None
        errors = [self.heads.errors[layer] for layer in layers]
        return by_error(n_keep, errors, self.n_sink + self.n_recent, n_cells, self.min_share, self.max_share)
