"""The select stage: which cells to keep."""

import numpy as np
import numpy.typing as npt

from .scores import Scores


def top_cells(scores: Scores, n_keep: int, n_sink: int, n_recent: int) -> npt.NDArray[np.intp]:
    """Indices of the `n_keep` cells to keep, ascending: the first `n_sink`, the last `n_recent` and the best others.

    scores: float32 [cells]. Of equal scores the later cell wins. Raises ValueError if n_keep < n_sink + n_recent or
    n_keep > cells.
    """
    n_cells = scores.size
    if not n_sink + n_recent <= n_keep <= n_cells:
        raise ValueError(f"cannot keep {n_keep} of {n_cells} cells with {n_sink} sinks and {n_recent} recent cells")
    middle = np.arange(n_sink, n_cells - n_recent)
    order = np.argsort(scores[middle], kind="stable")
    best = middle[order[order.size - (n_keep - n_sink - n_recent) :]]
    return np.sort(np.concatenate([np.arange(n_sink), best, np.arange(n_cells - n_recent, n_cells)]))
