"""The score stage: from the attention of a probe to a score of each cell, for each KV head."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .cache import Keep, LayerAttention
from .heads import HeadProfile

# heads of a model, of all its layers, that tell where a fact is
N_BEST = 8

# one array per layer: float32 [KV heads, cells], higher is better
Scores = list[npt.NDArray[np.float32]]


def pool(attention: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    """Average pooling along the last axis, stride 1, zero padding, as in SnapKV (arXiv 2404.14469, section 4).

    attention: float32 [..., cells]; width: odd. Returns the same shape.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"the pooling width must be odd, not {width}")
    n_cells, half = attention.shape[-1], width // 2
    padding = [(0, 0)] * (attention.ndim - 1) + [(half + 1, half)]
    total = np.cumsum(np.pad(attention, padding), axis=-1, dtype=np.float64)
    return ((total[..., width:] - total[..., :n_cells]) / width).astype(np.float32)


def group_heads(attention: npt.NDArray[np.float32], n_head_kv: int) -> npt.NDArray[np.float32]:
    """Mean over the query heads that share a KV head.

    attention: float32 [query heads, cells]; returns float32 [KV heads, cells].
    """
    return attention.reshape(n_head_kv, -1, attention.shape[-1]).mean(axis=1)


def normalize(attention: npt.NDArray[np.float32], candidates: slice) -> npt.NDArray[np.float32]:
    """Divide each head by its sum over `candidates`, the cells that it can lose.

    A head that rests on the sinks then counts as much as one that reads. attention: float32 [heads, cells]; returns the
    same shape.
    """
    total = attention[:, candidates].sum(axis=1, keepdims=True)
    return attention / np.maximum(total, np.finfo(np.float32).tiny)


def share(scores: Sequence[npt.NDArray[np.float32]], candidates: slice) -> npt.NDArray[np.float32]:
    """One score per cell for all heads of `scores`: float32 [1, cells].

    The root mean square of the normalised heads lets a cell that few heads need beat one that all of them glance at.
    Measured against other ways on needle cases; see README, "What did not work".
    """
    heads = normalize(np.concatenate(scores), candidates)
    return np.sqrt(np.mean(heads**2, axis=0, keepdims=True))


def held(scores: Scores, keep: Keep, candidates: slice) -> float:
    """The share of the scores of the `candidates` cells that those in `keep` have: mean over all KV heads, 0 to 1.

    With DBudgetKV (arXiv 2502.16886) as the example: what is held says how well a budget serves the answer.
    """
    shares = []
    for layer, cells in zip(scores, keep, strict=True):
        first, last, _ = candidates.indices(layer.shape[1])
        is_candidate = (cells >= first) & (cells < last)
        kept = (np.take_along_axis(layer, cells, axis=1) * is_candidate).sum(axis=1)
        shares.append(kept / np.maximum(layer[:, candidates].sum(axis=1), np.finfo(np.float32).tiny))
    return float(np.concatenate(shares).mean())


def cells_to_hold(scores: Scores, share: float, candidates: slice) -> int:
    """How many of the `candidates` cells each KV head has to keep, so that the best ones hold `share`, see `held`."""
    layers = [np.sort(layer[:, candidates], axis=1)[:, ::-1] for layer in scores]
    heads = np.concatenate([np.cumsum(normalize(layer, slice(None)), axis=1) for layer in layers])
    return int(np.searchsorted(heads.mean(axis=0), share)) + 1


def retrieval_heads(layers: Sequence[LayerAttention], heads: HeadProfile | None) -> npt.NDArray[np.float32]:
    """Attention of the `N_BEST` best heads of a profile; of all heads without one: float32 [heads, cells]."""
    seen = {layer.layer: layer.attention for layer in layers}
    if heads is None:
        return np.concatenate(list(seen.values()))
    every = [(share, layer, head) for layer in seen for head, share in enumerate(heads.retrieval[layer])]
    return np.stack([seen[layer][head] for _, layer, head in sorted(every)[-N_BEST:]])


def relevance(attention: npt.NDArray[np.float32], cells: slice) -> float:
    """How much some queries read in `cells`: their largest attention, mean of the `N_BEST` heads that attend most.

    attention: float32 [heads, cells], of the `retrieval_heads`, reduced by `ProbeType.MAX`.
    Heads that copy what the answer needs point at it with one query and hardly look elsewhere; most heads do neither.
    Measured against other ways; see README, "What did not work".
    """
    return float(np.sort(attention[:, cells].max(axis=1))[-N_BEST:].mean())
