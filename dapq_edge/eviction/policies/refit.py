"""refit: fused, whose kept values make up for what is lost."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...cache.kv_cache import KVCache, LayerAttention
from ...cache.sequence import Keep
from ...llamacpp.native import ProbeType
from ..refit import refit
from ..score import attention_kept
from .base import Eviction
from .fused import Fused


@dataclass(frozen=True)
class Refit(Fused):
    """Fused, and the values of the cells that stay are fitted to what the queries read from all cells.

    EMS (arXiv 2412.08521) and Elastic Cache (arXiv 2407.18121) merge what is lost into the nearest cell that stays. A
    mean of keys answers no query; what does help is to change the values only, of all kept cells together, by ridge
    regression (`eviction.refit`). The queries are probed twice: their largest attention says what stays, and then each
    layer is fitted while its attention is there, which is never kept for all layers. V of all cells is in memory
    meanwhile, in float16. A layer without V of its own raises `UnsupportedModelError` before anything is evicted.
    """

    name: str = "refit"
    summary: str = "fused, and the values that stay make up for what is lost"

    def evict(self, cache: KVCache, n_keep: int, n_most: int = 0) -> Eviction | None:
        self.check(cache)
        if n_keep >= cache.n_cells:
            return None
        tokens, pos = self.queries.tokens(self, cache, n_keep)
        scores = self.score(self, cache, self.attention(cache, tokens, pos))
        keep = self.select(cache, scores, self.enough(scores, n_keep, n_most))
        kept = attention_kept(scores, keep, self.candidates)
        fitted = _fitted_values(cache, tokens, pos, keep)
        cache.evict(keep, kept)
        for layer, values in fitted.items():
            cache.put_values(layer, values)
        return Eviction(keep, kept)


def _fitted_values(
    cache: KVCache, tokens: npt.NDArray[np.int64], pos: int, keep: Keep
) -> dict[int, npt.NDArray[np.float32]]:
    """Return the values of the cells in `keep`, see `refit`: {layer: float32 [KV heads, kept cells, head_dim]}."""
    layers = list(cache.gathered_heads())
    # nothing can be read from the cache during the probe
    values = {layer: _halved(cache.values(layer)) for layer in layers}
    missing = dict(zip(layers, cache.sequence.n_missing or [0] * len(layers), strict=True))
    kept = dict(zip(layers, keep, strict=True))
    fitted = {}

    def fit(seen: LayerAttention) -> None:
        layer = seen.layer
        if layer not in kept:
            return
        n = missing[layer]
        by_head = seen.attention.reshape(seen.n_head_kv, -1, seen.attention.shape[-1])[..., n:]
        heads = zip(by_head, values.pop(layer), kept[layer] - n, strict=True)
        fitted[layer] = np.stack(
            [refit(attention, of_head.astype(np.float32), cells) for attention, of_head, cells in heads]
        )

    cache.probe_layers(tokens, pos, ProbeType.NONE, fit)
    return fitted


def _halved(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16] | npt.NDArray[np.float32]:
    """Return values in float16, if they fit."""
    largest = np.finfo(np.float16).max
    return values.astype(np.float16) if np.abs(values).max(initial=0) <= largest else values
