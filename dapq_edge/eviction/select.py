"""The select stage: which cells each KV head keeps."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..cache.sequence import Keep
from .score import Scores, share

# which heads keep the same cells: none, those of a layer, or all of them
GRANULARITIES = ("head", "layer", "cell")


def top_cells(scores: npt.NDArray[np.float32], n_keep: int, n_sink: int, n_recent: int) -> npt.NDArray[np.intp]:
    """Return indices of `n_keep` cells to keep, ascending: the first `n_sink`, the last `n_recent` and the best others.

    scores: float32 [heads, cells]; returns integers [heads, n_keep]. Of equal scores the later cell wins. Raises
    ValueError if n_keep < n_sink + n_recent or n_keep > cells.
    """
    n_heads, n_cells = scores.shape
    if not n_sink + n_recent <= n_keep <= n_cells:
        raise ValueError(f"cannot keep {n_keep} of {n_cells} cells with {n_sink} sinks and {n_recent} recent cells")
    middle = np.argsort(scores[:, n_sink : n_cells - n_recent], axis=1, kind="stable") + n_sink
    best = middle[:, middle.shape[1] - (n_keep - n_sink - n_recent) :]
    always = np.r_[:n_sink, n_cells - n_recent : n_cells]
    return np.sort(np.concatenate([best, np.tile(always, (n_heads, 1))], axis=1), axis=1)


def select(scores: Scores, n_keep: Sequence[int], n_sink: int, n_recent: int, granularity: str) -> Keep:
    """Return the cells that each KV head of each layer keeps, see `top_cells`.

    n_keep: cells of each layer; granularity: one of `GRANULARITIES`. Raises ValueError if all layers are to keep the
    same cells, but different numbers of them.
    """
    candidates = slice(n_sink, -n_recent or None)
    if granularity == "cell":
        if len(set(n_keep)) > 1:
            raise ValueError("layers that keep the same cells keep the same number of them")
        cells = top_cells(share(scores, candidates), n_keep[0], n_sink, n_recent)
        return [np.tile(cells, (len(layer), 1)) for layer in scores]
    if granularity == "layer":
        scores = [np.tile(share([layer], candidates), (len(layer), 1)) for layer in scores]
    return [top_cells(layer, n, n_sink, n_recent) for layer, n in zip(scores, n_keep, strict=True)]
