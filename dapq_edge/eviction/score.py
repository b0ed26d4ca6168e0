"""The score stage: from the attention of a probe to a score of each cell, for each KV head."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..cache.sequence import Keep

# one array per layer: float32 [KV heads, cells], higher is better
Scores = list[npt.NDArray[np.float32]]


def pool(attention: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    """Average along the last axis, stride 1, zero padding, as in SnapKV (arXiv 2404.14469, section 4).

    attention: float32 [..., cells]; width: odd. Returns the same shape.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"the pooling width must be odd, not {width}")
    if width == 1:
        return attention
    n_cells, half = attention.shape[-1], width // 2
    padding = [(0, 0)] * (attention.ndim - 1) + [(half + 1, half)]
    total = np.cumsum(np.pad(attention, padding), axis=-1, dtype=np.float64)
    pooled: npt.NDArray[np.float32] = ((total[..., width:] - total[..., :n_cells]) / width).astype(np.float32)
    return pooled


def group_heads(attention: npt.NDArray[np.float32], n_head_kv: int) -> npt.NDArray[np.float32]:
    """Return the mean over the query heads that share a KV head.

    attention: float32 [query heads, cells]; returns float32 [KV heads, cells].
    """
    grouped: npt.NDArray[np.float32] = attention.reshape(n_head_kv, -1, attention.shape[-1]).mean(axis=1)
    return grouped


def normalize(attention: npt.NDArray[np.float32], candidates: slice) -> npt.NDArray[np.float32]:
    """Divide each head by its sum over `candidates`, the cells that it can lose.

    A head that rests on the sinks then counts as much as one that reads. attention: float32 [heads, cells]; returns the
    same shape.
    """
    total = attention[:, candidates].sum(axis=1, keepdims=True)
    normal: npt.NDArray[np.float32] = attention / np.maximum(total, np.finfo(np.float32).tiny)
    return normal


def share(scores: Sequence[npt.NDArray[np.float32]], candidates: slice) -> npt.NDArray[np.float32]:
    """Return one score per cell for all heads of `scores`: float32 [1, cells].

    The root mean square of the normalised heads lets a cell that few heads need beat one that all of them glance at.
    Measured against other ways on needle cases; see docs/ablations.md.
    """
    heads = normalize(np.concatenate(scores), candidates)
    rms: npt.NDArray[np.float32] = np.sqrt(np.mean(heads**2, axis=0, keepdims=True))
    return rms


def attention_kept(scores: Scores, keep: Keep, candidates: slice) -> float:
    """Return the share of the scores of the `candidates` cells that those in `keep` have, mean over all KV heads.

    It says how well a budget serves the answer (DBudgetKV, arXiv 2502.16886, has the idea).
    """
    shares = []
    for layer, cells in zip(scores, keep, strict=True):
        first, last, _ = candidates.indices(layer.shape[1])
        is_candidate = (cells >= first) & (cells < last)
        kept = (np.take_along_axis(layer, cells, axis=1) * is_candidate).sum(axis=1)
        shares.append(kept / np.maximum(layer[:, candidates].sum(axis=1), np.finfo(np.float32).tiny))
    return float(np.concatenate(shares).mean())


def cells_to_hold(scores: Scores, share: float, candidates: slice) -> int:
    """Return how many of the `candidates` cells each KV head has to keep, so that the best ones hold `share`.

    See `attention_kept`.
    """
    layers = [np.sort(layer[:, candidates], axis=1)[:, ::-1] for layer in scores]
    heads = np.concatenate([np.cumsum(normalize(layer, slice(None)), axis=1) for layer in layers])
    return int(np.searchsorted(heads.mean(axis=0), share)) + 1


def share_of_best(scores: Scores, n_best: int) -> list[float]:
    """Return the share of the cells of each layer that are among the best of all, which are `n_best` for each head."""
    every = np.concatenate([layer.ravel() for layer in scores])
    n_all = min(n_best * sum(map(len, scores)), every.size)
    least = np.partition(every, every.size - n_all)[every.size - n_all] if n_all else np.inf
    return [float((layer >= least).mean()) if layer.size else 0.0 for layer in scores]
