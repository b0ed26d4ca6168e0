"""The plan of how a prompt is read, before anything is."""

import pytest
from helpers.reading import make_plan, make_prompt

from dapq_edge.cells import CHUNK
from dapq_edge.errors import DapqError, UsageError
from dapq_edge.reading.plan import ReadMode


def test_ways():
    short, long = make_prompt(500), make_prompt(3000)
    assert make_plan(short).mode == ReadMode.FULL
    assert make_plan(long).mode == ReadMode.SKIM
    assert make_plan(long, "streaming").mode == ReadMode.CHUNKED
    assert make_plan(make_prompt(3000, has_question=False)).mode == ReadMode.CHUNKED
    assert (
        make_plan(long, one_shot=True).mode
        == make_plan(long, "full").mode
        == make_plan(long, budget="4000").mode
        == ReadMode.FULL
    )


def test_cells_are_bounded():
    """Whatever the length of the document is."""
    for n_body in (3000, 6000, 100_000):
        made = make_plan(make_prompt(n_body), budget="300")
        assert made.n_cells == 300 + CHUNK
        assert made.n_keep == 300
    assert make_plan(make_prompt(3000), budget="300", n_predict=1000).n_cells == 1300
    assert make_plan(make_prompt(500), one_shot=True).n_cells == 525 + 32
    assert make_plan(make_prompt(500), one_shot=True, n_predict=500).n_cells == 100 + 500
    assert make_plan(make_prompt(500), "full").n_cells == 525 + 16


def test_trained_context():
    long = make_prompt(3000)
    assert make_plan(long, n_ctx_train=2000).n_positions < 2000
    for options in ({"policy": "streaming"}, {"policy": "full"}, {"one_shot": True}):
        with pytest.raises(
            DapqError, match=r"3,025 tokens are read at once, but the model was trained for 2,000.*allow_overflow"
        ):
            make_plan(long, n_ctx_train=2000, **options)
        assert make_plan(long, n_ctx_train=2000, allow_overflow=True, **options).n_positions == 3025
    # a share of a long document is cut to what the model sees
    share = make_plan(make_prompt(100_000), budget="50%", n_ctx_train=8192, n_predict=256)
    assert share.mode == ReadMode.SKIM
    assert share.n_positions == 8192 - 256 - 32
    assert share.n_predict == 256
    assert make_plan(make_prompt(8000), budget="100%", n_ctx_train=8192).mode == ReadMode.FULL
    with pytest.raises(DapqError, match="lower kv_budget, or set allow_overflow"):
        make_plan(make_prompt(100_000), budget="8000", n_ctx_train=8192)
    # the answer ends where the trained context does
    assert make_plan(long, one_shot=True, n_ctx_train=3030).n_predict == 5
    assert make_plan(long, one_shot=True, n_ctx_train=3030, allow_overflow=True).n_predict == 16
    assert make_plan(long, n_ctx_train=585).n_predict == 585 - 100 - 480


def test_budget_below_the_question():
    with pytest.raises(UsageError, match="the question has 180 tokens: set kv_budget to 196 cells or more"):
        make_plan(make_prompt(3000, n_tail=180), budget="195")
    assert make_plan(make_prompt(3000, n_tail=180), budget="196").n_window >= CHUNK - 32
