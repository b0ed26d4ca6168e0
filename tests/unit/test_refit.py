"""Values that are fitted to what queries read."""

import numpy as np

from dapq_edge.eviction.refit import refit

CELLS = np.array([0, 3, 4, 9, 20, 21, 30, 39])


def softmax(x):
    e = np.exp(x)
    return (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)


def test_queries_read_what_they_read_before():
    """Nearly, if there are more kept cells than queries, and always more nearly than with the values as they were."""
    rng = np.random.default_rng(0)
    for n_queries, least in ((4, 0.3), (64, 1.0)):
        logits = rng.normal(size=(n_queries, 41))
        # what the queries pay to themselves stands last, and stays
        attention = softmax(logits)[:, :40]
        values = rng.normal(size=(40, 16)).astype(np.float32)
        fitted = refit(attention, values, CELLS)
        kept = (
            attention[:, CELLS] * attention.sum(axis=1, keepdims=True) / attention[:, CELLS].sum(axis=1, keepdims=True)
        )
        wanted = attention @ values
        error, error_before = (np.abs(kept @ v - wanted).mean() for v in (fitted, values[CELLS]))
        assert error < least * error_before


def test_nothing_lost_changes_nothing():
    rng = np.random.default_rng(1)
    attention, values = softmax(rng.normal(size=(8, 40))), rng.normal(size=(40, 16)).astype(np.float32)
    attention[:, np.setdiff1d(np.arange(40), CELLS)] = 0
    np.testing.assert_allclose(refit(attention, values, CELLS), values[CELLS], atol=1e-5)
    # a head that looks at none of its cells has nothing to fit
    np.testing.assert_allclose(refit(np.zeros_like(attention), values, CELLS), values[CELLS])
