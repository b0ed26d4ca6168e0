"""Budget, score and select, without a model."""

import numpy as np
import pytest

from dapq_edge.budgets import Budget
from dapq_edge.cache import LayerAttention
from dapq_edge.errors import UsageError
from dapq_edge.policies import POLICIES, get_policy
from dapq_edge.scores import pool, share_cells
from dapq_edge.select import top_cells


@pytest.mark.parametrize(
    ("text", "n_prompt", "expected"),
    [("256", 1000, 256), ("256", 100, 100), ("25%", 1000, 250), ("12.5%", 100, 13), ("100%", 77, 77), (" 5% ", 20, 1)],
)
def test_budget(text, n_prompt, expected):
    assert Budget.parse(text).cells(n_prompt) == expected


@pytest.mark.parametrize(
    "text", ["0", "0%", "-1", "-5%", "nan", "nan%", "inf%", "150%", "", "%", "a", "1.5", "1e3", "10%%", "1,000"]
)
def test_bad_budget(text):
    with pytest.raises(UsageError, match="--kv-budget"):
        Budget.parse(text)


def test_pool():
    x = np.random.default_rng(0).random((2, 3, 20), dtype=np.float32)
    for width in (1, 3, 5, 7):
        expected = [np.convolve(row, np.ones(width) / width, mode="same") for row in x.reshape(-1, 20)]
        np.testing.assert_allclose(pool(x, width).reshape(-1, 20), expected, rtol=1e-5)
    with pytest.raises(ValueError):
        pool(x, 4)


def test_share_cells_ignores_what_is_always_kept():
    """A head that rests on the sink weighs as much as one that does not."""
    reading = np.array([[0.0, 0.1, 0.2, 0.7, 0.0]], dtype=np.float32)
    resting = np.array([[0.9, 0.07, 0.02, 0.01, 0.0]], dtype=np.float32)
    scores = share_cells([LayerAttention(0, 1, reading), LayerAttention(1, 1, resting)], slice(1, -1))
    np.testing.assert_allclose(
        scores[1:-1], np.sqrt(np.mean([[0.01, 0.04, 0.49], [0.49, 0.04, 0.01]], axis=0)), rtol=1e-5
    )


def test_top_cells():
    scores = np.array([9, 0, 5, 1, 7, 7, 2, 0], dtype=np.float32)
    assert top_cells(scores, 4, 1, 1).tolist() == [0, 4, 5, 7]
    assert top_cells(scores, 3, 1, 1).tolist() == [0, 5, 7]  # of equal scores the later
    assert top_cells(scores, 2, 1, 1).tolist() == [0, 7]
    assert top_cells(scores, 8, 1, 1).tolist() == list(range(8))
    for n_keep in (1, 9):
        with pytest.raises(ValueError):
            top_cells(scores, n_keep, 1, 1)


def test_registry():
    assert {"full", "streaming", "dapq"} <= set(POLICIES)
    for name, policy in POLICIES.items():
        assert policy.name == name and policy.summary
    with pytest.raises(UsageError, match="choose one of"):
        get_policy("nonsense")
