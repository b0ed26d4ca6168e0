"""Scores: from the attention of the queries to a number for each cell, for each KV head."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ....cache.kv_cache import KVCache
from ....cache.sequence_cells import LayerAttention
from ....llamacpp.native import ProbeType
from ...score import Scores, group_heads, normalize, pool
from .owner import Owner

# how the query heads that share a KV head become one
GROUPS: dict[str, Callable[..., npt.NDArray[np.float32]]] = {"mean": np.mean, "max": np.max}


class Score(ABC):
    """A way to score cells. `policy` is the one that it is a part of."""

    # how the attention of the queries becomes one number for each cell
    reduce: ProbeType = ProbeType.MEAN

    # whether it needs the head profile of the policy
    needs_heads = False

    def __call__(self, policy: Owner, cache: KVCache, layers: list[LayerAttention]) -> Scores:
        """Return the scores of all layers."""
        return [self.of_layer(policy, layer) for layer in layers]

    @abstractmethod
    def of_layer(self, policy: Owner, layer: LayerAttention) -> npt.NDArray[np.float32]:
        """Return the scores of one layer: float32 [KV heads, cells]."""


@dataclass(frozen=True)
class Pooled(Score):
    """Attention, averaged over `width` cells, then over the query heads of a KV head (SnapKV, section 4)."""

    reduce: ProbeType = ProbeType.MEAN
    width: int = 5

    def of_layer(self, policy: Owner, layer: LayerAttention) -> npt.NDArray[np.float32]:
        return group_heads(pool(layer.attention, self.width), layer.n_head_kv)


@dataclass(frozen=True)
class Normalized(Score):
    """A cell's own attention plus that around it, of which each query head has the same amount to give.

    own, pooled: how much a cell's attention counts, and its average over `width` cells. is_normalized: whether each
    query head is divided by its sum over the cells that it can lose. group: "mean" or "max" over the query heads of a
    KV head.
    """

    reduce: ProbeType = ProbeType.MAX
    own: float = 1.0
    pooled: float = 1.0
    width: int = 5
    is_normalized: bool = True
    group: str = "mean"

    def of_layer(self, policy: Owner, layer: LayerAttention) -> npt.NDArray[np.float32]:
        scores = self.own * layer.attention + self.pooled * pool(layer.attention, self.width)
        if self.is_normalized:
            scores = normalize(scores, policy.candidates)
        by_head = scores.reshape(layer.n_head_kv, -1, scores.shape[-1])
        return GROUPS[self.group](by_head, axis=1)


@dataclass(frozen=True)
class HeadsOfLayer(Score):
    """The mean attention of a layer's heads, for all its KV heads, averaged over `width` cells.

    n_heads: only the best retrieval heads of the layer; 0 for all.
    """

    reduce: ProbeType = ProbeType.MEAN
    width: int = 1
    n_heads: int = 0

    @property
    def needs_heads(self) -> bool:  # type: ignore[override]
        return self.n_heads > 0

    def of_layer(self, policy: Owner, layer: LayerAttention) -> npt.NDArray[np.float32]:
        attention = layer.attention
        if self.n_heads:
            attention = attention[policy.profile.top_heads(layer.layer, self.n_heads)]
        return np.tile(pool(attention, self.width).mean(axis=0), (layer.n_head_kv, 1))
