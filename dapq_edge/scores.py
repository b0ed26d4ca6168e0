"""The score stage: from the attention of a probe to a score of each cell."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .cache import LayerAttention

Scores = npt.NDArray[np.float32]


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


def share_cells(layers: Sequence[LayerAttention], candidates: slice) -> Scores:
    """One score per cell for all heads and layers: float32 [cells].

    Each head's attention is normalised over the cells that it can lose (`candidates`), so that a head that rests on the
    sinks counts as much as one that reads; the root mean square lets a cell that few heads need beat one that all of
    them glance at. Measured against five other ways on needle cases; see README, "What did not work".
    """
    attention = np.concatenate([layer.attention for layer in layers])
    total = attention[:, candidates].sum(axis=1, keepdims=True)
    return np.sqrt(np.mean((attention / np.maximum(total, np.finfo(np.float32).tiny)) ** 2, axis=0))
