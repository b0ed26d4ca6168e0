"""tova: the last token as the query (TOVA, arXiv 2401.06104)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..cache import KVCache, LayerAttention
from .base import ProbingPolicy, Queries


@dataclass(frozen=True)
class TOVA(ProbingPolicy):
    """Keep the cells that the last token attends to, the same in all heads of a layer (arXiv 2401.06104, section 4).

    The paper drops the least attended cell whenever one is added; here once for all that are too many.
    """

    name = "tova"
    summary = "cells that the last token attends to, in each layer (TOVA, arXiv 2401.06104)"

    n_sink: int = 0
    n_recent: int = 1

    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        return cache.recent[-1:], cache.next_position - 1

    def layer_scores(self, layer: LayerAttention) -> npt.NDArray[np.float32]:
        return np.tile(layer.attention.mean(axis=0), (layer.n_head_kv, 1))
