"""refit: fused, whose kept values make up for what is lost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...cache.kv_cache import KVCache, LayerAttention
from ...cache.sequence import Keep
from ...llamacpp.native import ProbeType
from ..refit import refit
from ..score import Scores, attention_kept
from .base import Eviction
from .fused import Fused
from .parts import Normalized, Score


@dataclass(frozen=True)
class Refit(Fused):
    """Fused, and the values of the cells that stay are fitted to what the queries read from all cells.

    EMS (arXiv 2412.08521) and Elastic Cache (arXiv 2407.18121) merge what is lost into the nearest cell that stays. A
    mean of keys answers no query; what does help is to change the values only, of all kept cells together, by ridge
    regression (`eviction.refit`). It needs V in f16, flash attention, and the attention of each query in memory; others
    raise `UnsupportedModelError` before anything is evicted.
    """

    name: str = "refit"
    summary: str = "fused, and the values that stay make up for what is lost"
    score: Score = Normalized(ProbeType.NONE, pooled=0.25)

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        return self._scores(cache, self.probe(cache, n_keep))

    def _scores(self, cache: KVCache, layers: list[LayerAttention]) -> Scores:
        return self.score(self, cache, [replace(layer, attention=layer.attention.max(axis=1)) for layer in layers])

    def evict(self, cache: KVCache, n_keep: int, n_most: int = 0) -> Eviction | None:
        self.check(cache)
        if n_keep >= cache.n_cells:
            return None
        layers = self.probe(cache, n_keep)
        scores = self._scores(cache, layers)
        keep = self.select(cache, scores, self.enough(scores, n_keep, n_most))
        kept = attention_kept(scores, keep, self.candidates)
        values = fitted_values(layers, cache.values(), keep, cache.sequence.n_missing or [0] * len(keep))
        cache.evict(keep, kept)
        cache.put_values(values)
        return Eviction(keep, kept)


def fitted_values(
    layers: list[LayerAttention], values: list[npt.NDArray[np.float16]], keep: Keep, missing: Sequence[int]
) -> list[npt.NDArray[np.float32]]:
    """Return the values of the cells in `keep`, see `refit`: float32 [KV heads, kept cells, head_dim] of each layer.

    Args:
        layers: Attention of each query.
        values: Of all cells.
        keep: What is kept.
        missing: How many of the first cells each layer lacks.
    """
    fitted = []
    for seen, of_layer, cells, n in zip(layers, values, keep, missing, strict=True):
        by_head = seen.attention.reshape(seen.n_head_kv, -1, seen.attention.shape[-1])[..., n:]
        heads = zip(by_head, of_layer.astype(np.float32), cells - n, strict=True)
        fitted.append(np.stack([refit(*head) for head in heads]))
    return fitted
