"""Values: what becomes of V in the cells that stay."""

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ....cache.kv_cache import KVCache
from ....cache.sequence import Keep
from ....cache.sequence_cells import LayerAttention
from ....errors import UnsupportedModelError
from ....llamacpp.native import ProbeType
from ...refit import refit
from .queries import Tokens

# {layer: new values of its kept cells: float16, or float32 if that is too small, [KV heads, kept cells, head_dim]}
NewValues = dict[int, npt.NDArray[Any]]


class Values(ABC):
    """A way to change the values of the cells that stay."""

    @abstractmethod
    def fit(self, cache: KVCache, tokens: Tokens, pos: int, keep: Keep) -> NewValues:
        """Return new values; nothing for layers whose values stay as they are. The cache is left as it was.

        tokens, pos: the queries, and the position of the first one. keep: the cells that stay.
        """


class AsTheyAre(Values):
    """They stay as they are."""

    def fit(self, cache: KVCache, tokens: Tokens, pos: int, keep: Keep) -> NewValues:
        return {}


class Refitted(Values):
    """Those with which the queries read what they read from all cells, see `eviction.refit`.

    EMS (arXiv 2412.08521) and Elastic Cache (arXiv 2407.18121) merge what is lost into the nearest cell that stays. A
    mean of keys answers no query; what does help is to change the values only, of all kept cells together. Layers
    without V of their own (MLA) stay as they are. V of all cells is in memory meanwhile, in 16 bits.
    """

    def fit(self, cache: KVCache, tokens: Tokens, pos: int, keep: Keep) -> NewValues:
        heads = cache.gathered_heads()
        missing = cache.sequence.n_missing or [0] * len(heads)
        kept = {layer: cells - n for layer, cells, n in zip(heads, keep, missing, strict=True)}
        # nothing can be read from the cache during the probe
        values, fitted = {}, {}
        for layer in heads:
            with suppress(UnsupportedModelError):
                values[layer] = _halved(cache.values(layer))

        def fit_layer(seen: LayerAttention) -> None:
            if seen.layer in values:
                fitted[seen.layer] = _fitted(seen, values.pop(seen.layer), kept[seen.layer])

        # llama.cpp's threads are not done, and more of them only wait for each other
        with threadpool_limits(1, user_api="blas"):
            cache.probe_layers(tokens, pos, ProbeType.NONE, fit_layer)
        return fitted


def _fitted(seen: LayerAttention, values: npt.NDArray[Any], cells: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Fit the values of a layer, which may lack the first of the cells that were seen."""
    by_head = seen.attention.reshape(len(values), -1, seen.attention.shape[-1])[..., -values.shape[1] :]
    heads = zip(by_head, values.astype(np.float32), cells, strict=True)
    return _halved(np.stack([refit(*head) for head in heads]))


def _halved(values: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Return values in float16, if they fit."""
    largest = np.finfo(np.float16).max
    return values.astype(np.float16) if np.abs(values).max(initial=0) <= largest else values
