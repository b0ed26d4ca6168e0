"""The select stage: which cells each KV head keeps."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..cache.sequence import Keep
from .score import Scores, share

# which heads keep the same cells: none, those of a layer, or all of them
GRANULARITIES = ("head", "layer", "cell")

# cells of each layer that must be kept: bool [KV heads, cells]
Pinned = Sequence[npt.NDArray[np.bool_]]


def n_most_pinned(pinned: Pinned) -> int:
    """Return the pinned cells of the head that has most."""
    return max((int(layer.sum(axis=1).max(initial=0)) for layer in pinned), default=0)


def top_cells(
    scores: npt.NDArray[np.float32],
    n_keep: int,
    n_sink: int,
    n_recent: int,
    pinned: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.intp]:
    """Return indices of `n_keep` cells to keep, ascending: the first `n_sink`, the last `n_recent` and the best others.

    scores: float32 [heads, cells]; pinned: cells that are better than all others, bool [heads, cells]; returns integers
    [heads, n_keep]. Of equal scores the later cell wins. Raises ValueError if n_keep < n_sink + n_recent or n_keep >
    cells.
    """
    if pinned is not None:
        scores = np.where(pinned, np.float32(np.inf), scores)
    n_heads, n_cells = scores.shape
    if not n_sink + n_recent <= n_keep <= n_cells:
        raise ValueError(f"cannot keep {n_keep} of {n_cells} cells with {n_sink} sinks and {n_recent} recent cells")
    middle = np.argsort(scores[:, n_sink : n_cells - n_recent], axis=1, kind="stable") + n_sink
    best = middle[:, middle.shape[1] - (n_keep - n_sink - n_recent) :]
    always = np.r_[:n_sink, n_cells - n_recent : n_cells]
    return np.sort(np.concatenate([best, np.tile(always, (n_heads, 1))], axis=1), axis=1)


def select(
    scores: Scores, n_keep: Sequence[int], n_sink: int, n_recent: int, granularity: str, pinned: Pinned | None = None
) -> Keep:
    """Return the cells that each KV head of each layer keeps, see `top_cells`.

    n_keep: cells of each layer; granularity: one of `GRANULARITIES`; pinned: cells that must be kept. Raises ValueError
    if all layers are to keep the same cells, but different numbers of them.
    """
    candidates = slice(n_sink, -n_recent or None)
    if granularity == "cell":
        if len(set(n_keep)) > 1:
            raise ValueError("layers that keep the same cells keep the same number of them")
        # heads that keep the same cells have the same ones pinned
        best = top_cells(share(scores, candidates), n_keep[0], n_sink, n_recent, pinned[0][:1] if pinned else None)
        return [np.tile(best, (len(layer), 1)) for layer in scores]
    if granularity == "layer":
        scores = [np.tile(share([layer], candidates), (len(layer), 1)) for layer in scores]
    cells = pinned or [np.zeros(layer.shape, dtype=bool) for layer in scores]
    layers = zip(scores, n_keep, cells, strict=True)
    return [top_cells(layer, n, n_sink, n_recent, is_pinned) for layer, n, is_pinned in layers]
