"""Values: what becomes of V in the cells that stay."""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ....cache.kv_cache import KVCache
from ....cache.sequence import Keep
from ....llamacpp.native import ProbeType
from ...refit import refit
from .queries import Tokens

# {layer: new values of its kept cells: float16 [KV heads, kept cells, head_dim]}
NewValues = dict[int, npt.NDArray[np.float16]]


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
    mean of keys answers no query; what does help is to change the values only, of all kept cells together.
    """

    def fit(self, cache: KVCache, tokens: Tokens, pos: int, keep: Keep) -> NewValues:
        missing = cache.sequence.n_missing or [0] * len(keep)
        # half of the bytes, as all layers are here at once
        values = {layer: cache.values(layer).astype(np.float16) for layer in cache.gathered_heads()}
        wanted = {layer: cells - n for layer, cells, n in zip(values, keep, missing, strict=True)}
        fitted: NewValues = {}

        def fit_layer(layer: int, attention: npt.NDArray[np.float32]) -> None:
            # a layer that reads the cells of another one has none of its own
            if layer in wanted:
                fitted[layer] = _fitted(attention, values.pop(layer), wanted[layer])

        # llama.cpp's threads are not done, and more of them only wait for each other
        with threadpool_limits(1, user_api="blas"):
            cache.probe_layers(tokens, pos, ProbeType.NONE, fit_layer)
        return fitted


def _fitted(
    attention: npt.NDArray[np.float32], values: npt.NDArray[np.float16], cells: npt.NDArray[np.intp]
) -> npt.NDArray[np.float16]:
    """Fit the values of one layer, whose first cells may be missing: attention float32 [heads, queries, cells]."""
    by_head = attention.reshape(len(values), -1, attention.shape[-1])[..., -values.shape[1] :]
    heads = zip(by_head, values.astype(np.float32), cells, strict=True)
    return np.stack([refit(*head) for head in heads]).astype(np.float16)
