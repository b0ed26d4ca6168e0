"""The refit stage: the values of kept cells become those with which the queries read what they read before."""

import numpy as np
import numpy.typing as npt

# how much values are held to what they are, in mean squared lengths of what a query pays to the kept cells
RIDGE = 0.1


def refit(
    attention: npt.NDArray[np.float32], values: npt.NDArray[np.float32], cells: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    """Return new values for the cells that a KV head keeps, by ridge regression: float32 [kept cells, head_dim].

    With the attention of each query shared among the kept cells as a softmax would, they give as nearly as possible the
    sum that all cells gave.

    Args:
        attention: That queries pay to all cells: float32 [queries, cells].
        values: Of all cells: float32 [cells, head_dim].
        cells: Which are kept: integers.
    """
    tiny = np.finfo(np.float32).tiny
    kept = attention[:, cells]
    kept *= attention.sum(axis=1, keepdims=True) / np.maximum(kept.sum(axis=1, keepdims=True), tiny)
    lost = attention @ values - kept @ values[cells]
    products = kept @ kept.T
    products[np.diag_indices_from(products)] += RIDGE * np.trace(products) / len(products) + tiny
    fitted: npt.NDArray[np.float32] = values[cells] + kept.T @ np.linalg.solve(products, lost)
    return fitted
