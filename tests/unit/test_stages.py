"""Score and select, without a model."""

import numpy as np
import pytest

from dapq_edge.errors import UsageError
from dapq_edge.eviction.policies import POLICIES, get_policy
from dapq_edge.eviction.score import group_heads, normalize, pool, share, share_of_best
from dapq_edge.eviction.select import select, top_cells


def test_pool():
    x = np.random.default_rng(0).random((2, 3, 20), dtype=np.float32)
    for width in (1, 3, 5, 7):
        expected = [np.convolve(row, np.ones(width) / width, mode="same") for row in x.reshape(-1, 20)]
        np.testing.assert_allclose(pool(x, width).reshape(-1, 20), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="must be odd"):
        pool(x, 4)


def test_group_heads():
    """Query heads of a KV head are neighbours."""
    attention = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(group_heads(attention, 2), [[1.5, 2.5, 3.5], [7.5, 8.5, 9.5]])
    np.testing.assert_allclose(group_heads(attention, 4), attention)


def test_normalize():
    """Each head sums to 1 over the cells that it can lose; one that looks at none of them stays finite."""
    attention = np.array([[0.6, 0.1, 0.3, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(normalize(attention, slice(1, None))[0], [1.5, 0.25, 0.75, 0.0], rtol=1e-6)
    assert np.isfinite(normalize(attention, slice(1, None))).all()


def test_share_ignores_what_is_always_kept():
    """A head that rests on the sink weighs as much as one that does not."""
    reading = np.array([[0.0, 0.1, 0.2, 0.7, 0.0]], dtype=np.float32)
    resting = np.array([[0.9, 0.07, 0.02, 0.01, 0.0]], dtype=np.float32)
    shared = share([reading, resting], slice(1, -1))
    assert shared.shape == (1, 5)
    np.testing.assert_allclose(
        shared[0, 1:-1], np.sqrt(np.mean([[0.01, 0.04, 0.49], [0.49, 0.04, 0.01]], axis=0)), rtol=1e-5
    )


def test_share_of_best():
    """Layers with other numbers of heads and cells share what is best of all of them."""
    scores = [np.array([[9, 8, 7, 0], [6, 0, 0, 0]], np.float32), np.array([[5, 4, 0]], np.float32)]
    assert share_of_best(scores, 1) == pytest.approx([3 / 8, 0])
    assert share_of_best(scores, 2) == pytest.approx([4 / 8, 2 / 3])
    assert share_of_best(scores, 100) == [1, 1]


def test_top_cells():
    scores = np.array([[9, 0, 5, 1, 7, 7, 2, 0], [0, 9, 8, 7, 6, 5, 4, 3]], dtype=np.float32)
    assert top_cells(scores, 4, 1, 1).tolist() == [[0, 4, 5, 7], [0, 1, 2, 7]]
    assert top_cells(scores, 3, 1, 1).tolist() == [[0, 5, 7], [0, 1, 7]]  # of equal scores the later
    assert top_cells(scores, 2, 1, 1).tolist() == [[0, 7]] * 2
    assert top_cells(scores, 8, 1, 1).tolist() == [list(range(8))] * 2
    assert top_cells(scores, 3, 0, 0).tolist() == [[0, 4, 5], [1, 2, 3]]
    for n_keep in (1, 9):
        with pytest.raises(ValueError, match="cannot keep"):
            top_cells(scores, n_keep, 1, 1)


def test_granularity():
    """What each head, each layer, or all of them keep of the same scores."""
    scores = [np.random.default_rng(layer).random((2, 50), dtype=np.float32) for layer in range(3)]
    by_head = select(scores, [10, 10, 10], 2, 3, "head")
    assert all((kept == top_cells(layer, 10, 2, 3)).all() for kept, layer in zip(by_head, scores, strict=True))
    by_layer = select(scores, [10, 10, 10], 2, 3, "layer")
    assert all((kept[0] == kept[1]).all() for kept in by_layer)
    assert (by_layer[0] != by_layer[1]).any()
    by_cell = select(scores, [10, 10, 10], 2, 3, "cell")
    assert all((kept == by_cell[0][0]).all() for kept in by_cell)
    assert (by_cell[0] != by_layer[0]).any()
    assert all(kept.shape == (2, 10) for kept in by_head + by_layer + by_cell)
    uneven = select(scores, [10, 5, 50], 2, 3, "head")
    assert [kept.shape for kept in uneven] == [(2, 10), (2, 5), (2, 50)]
    assert (uneven[0] == by_head[0]).all()
    with pytest.raises(ValueError, match="same number"):
        select(scores, [10, 5, 50], 2, 3, "cell")


def test_registry():
    assert {"fused", "dapq", "laq", "snapkv", "h2o", "tova", "pyramid", "streaming", "full", "oracle"} <= set(POLICIES)
    for name, policy in POLICIES.items():
        assert policy.name == name
        assert policy.summary
    with pytest.raises(UsageError, match="choose one of"):
        get_policy("nonsense")
