"""How many cells are kept, and how layers share them."""

import numpy as np
import pytest

from dapq_edge.cells import LAYER_STEP as STEP
from dapq_edge.errors import UsageError
from dapq_edge.eviction.budget import Auto, Cells, Share, by_weight, in_steps, parse_budget, pyramid


def test_pyramid():
    assert pyramid(100, 5, 12, 1000) == [188, 144, 100, 56, 12]
    assert pyramid(100, 3, 1, 1000) == [195, 100, 5]
    assert pyramid(12, 3, 12, 1000) == [12, 12, 12]
    assert pyramid(40, 1, 12, 1000) == [40]
    # a layer cannot keep more than there is
    assert pyramid(80, 5, 12, 100) == [100, 90, 80, 70, 60]


def test_layers_differ_in_steps():
    assert in_steps([100, 100, 100], [500] * 3, 12, STEP) == [100, 100, 100]
    assert in_steps([188, 144, 100, 56, 12], [500] * 5, 12, STEP) == [183, 151, 87, 55, 23]
    # the first and the last have less than they may keep
    assert in_steps([188, 144, 100], [70, 102, 38], 12, STEP) == [70, 102, 38]
    assert in_steps([60, 60, 30], [70, 102, 38], 12, STEP) == [60, 60, 28]
    # none has as many as the wanted ones in steps from what it has
    assert in_steps([38, 38, 44], [50, 50, 82], 12, STEP) == [40, 40, 40]
    # the least is far more than what is wanted
    assert in_steps([64, 64, 640], [300, 300, 812], 140, STEP) == [149, 149, 469]
    # two layers have less than that
    assert in_steps([250, 1300, 405, 1300], [452, 1316, 484, 1316], 486, STEP) == [452, 1284, 484, 1284]


@pytest.mark.parametrize("is_uneven", [False, True])
def test_steps_keep_their_bounds(is_uneven):
    """No layer keeps more than it has or than was wanted of any, or less than what must stay; the mean stays."""
    rng = np.random.default_rng(1)
    for _ in range(500):
        n_layer = rng.integers(2, 9)
        has = rng.integers(20, 400) + STEP * rng.integers(0, 9 if is_uneven else 1, n_layer)
        n_min = int(rng.integers(1, rng.choice([20, has.min()])))
        n_keep = rng.integers(n_min // 2, n_min + 300, n_layer)
        n_keep += max(0, n_min - int(n_keep.mean()))
        wanted, kept = np.minimum(n_keep, has), np.array(in_steps(n_keep.tolist(), has.tolist(), n_min, STEP))
        assert ((kept - kept[0]) % STEP == 0).all()
        assert (kept >= n_min).all()
        assert (kept <= np.minimum(has, wanted.max())).all()
        assert is_uneven or n_min >= 20 or kept.max() == wanted.max() or abs(kept.mean() - wanted.mean()) <= 1


@pytest.mark.parametrize(
    ("text", "n_prompt", "expected"),
    [("256", 1000, 256), ("256", 100, 100), ("25%", 1000, 250), ("12.5%", 100, 13), ("100%", 77, 77), (" 5% ", 20, 1)],
)
def test_budget(text, n_prompt, expected):
    assert parse_budget(text).n_keep(n_prompt) == expected


@pytest.mark.parametrize(
    "text", ["0", "0%", "-1", "-5%", "nan", "nan%", "inf%", "150%", "", "%", "a", "1.5", "1e3", "10%%", "1,000"]
)
def test_bad_budget(text):
    with pytest.raises(UsageError, match=r"^kv_budget "):
        parse_budget(text)


def test_what_memory_has_room_for():
    """A short prompt is kept whole; a longer one from `n_start` cells on, and up to `n_limit` where it would hurt."""
    budget = Auto(2000, 3584)
    assert [budget.n_keep(n) for n in (3584, 3585, 100)] == [3584, 2000, 100]
    assert [budget.n_most(n) for n in (100, 3585, 9000)] == [100, 3584, 3584]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(256, Cells(256)), ("256", Cells(256)), ("25%", Share(25)), ("auto", Auto()), (Share(3), Share(3))],
)
def test_budgets_are_values(budget, expected):
    assert parse_budget(budget) == expected
    assert parse_budget(str(expected)) == expected


def test_wrong_budgets_name_their_parameter():
    for wrong in (lambda: Cells(0), lambda: Share(0), lambda: Share(101), lambda: parse_budget("x")):
        with pytest.raises(UsageError) as caught:
            wrong()
        assert caught.value.param == "kv_budget"


def test_budgets_by_weight():
    """Proportional within bounds; the mean is the budget."""
    assert by_weight(100, [1, 1, 1], 12, 10_000, 0.5, 1.6) == [100, 100, 100]
    assert by_weight(100, [0.9, 1.0, 1.1], 12, 10_000, 0.5, 1.6) == [90, 100, 110]
    assert by_weight(100, [0, 0, 5, 5], 12, 10_000, 0.5, 1.6) == [50, 50, 150, 150]
    uneven = by_weight(1000, [0.01, 0.1, 0.2, 0.9, 5], 12, 10_000, 0.5, 1.6)
    assert min(uneven) == 500
    assert max(uneven) == 1600
    assert abs(np.mean(uneven) - 1000) <= 1
    # bounds that leave little to share
    assert by_weight(13, [1, 2, 100], 12, 10_000, 0.5, 1.6) == [12, 12, 15]
    assert by_weight(80, [0.1, 0.2, 0.9], 12, 100, 0.5, 1.6) == [47, 93, 100]
    assert by_weight(50, [0, 0], 12, 10_000, 0.5, 1.6) == [50, 50]
