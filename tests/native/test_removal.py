"""Removal of positions, and what decoding sees afterwards."""

import llama_cpp
import pytest
from helpers.context import Context
from helpers.tiny import Spec
from helpers.tokens import N_PROMPT, PROBE, PROMPT

from dapq_edge.errors import DapqError
from dapq_edge.llamacpp import native

HOLES = [3, 4, 5, 9, 17, 18, 40, 41, 42, 60]


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("flash_attn", [False, True])
def test_removal_is_repeated_stock_removal(tiny_model, unified, flash_attn):
    options = {"n_seq_max": 2, "kv_unified": unified, "flash_attn": flash_attn}
    with Context(tiny_model(Spec()), **options) as c, Context(tiny_model(Spec()), **options) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0, seq_id=1) == 0
            assert context.decode(PROMPT, 0) == 0
        assert native.seq_remove(c.ctx, 0, HOLES) == len(HOLES)
        for pos in HOLES:
            assert llama_cpp.llama_memory_seq_rm(stock.memory, 0, pos, pos + 1)
        assert c.state(0) == stock.state(0)
        assert c.state(1) == stock.state(1)
        for context in (c, stock):
            assert context.decode(PROBE, N_PROMPT) == 0
        assert c.logits.tobytes() == stock.logits.tobytes()
        assert c.state(0) == stock.state(0)


def test_shared_cells_stay_with_the_other_sequence(tiny_model):
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        before = c.state(1)
        native.seq_remove(c.ctx, 0, HOLES)
        assert c.state(1) == before
        assert native.seq_positions(c.ctx, 0).tolist() == [p for p in range(N_PROMPT) if p not in HOLES]


def test_window_is_kept(tiny_model):
    """The sliding-window layers of a model keep their cells: only full-attention layers lose the positions."""
    spec = Spec(arch="gemma2", n_layer=4)
    with Context(tiny_model(spec)) as c:
        assert c.decode(PROMPT, 0) == 0
        before = len(c.state())
        native.seq_remove(c.ctx, 0, HOLES)
        row = spec.n_head_kv * spec.head_dim * 2
        # and of each cell its position and its sequence
        assert before - len(c.state()) == len(HOLES) * (len(spec.full_layers) * 2 * row + 12)
        assert c.decode(PROBE, N_PROMPT) == 0


@pytest.mark.parametrize(
    "positions",
    [[3, 3], [4, 3], [N_PROMPT], [-1], [0, 1000], [2, 5, 4]],
    ids=["twice", "down", "end", "neg", "far", "mix"],
)
def test_invalid_removal_changes_nothing(tiny_model, positions):
    with Context(tiny_model(Spec())) as c:
        assert c.decode(PROMPT, 0) == 0
        before = c.state()
        with pytest.raises(DapqError):
            native.seq_remove(c.ctx, 0, positions)
        assert c.state() == before


def test_invalid_sequence_and_null(tiny_model):
    with Context(tiny_model(Spec())) as c:
        for seq_id in (-1, 1, 1000):
            for call in (native.seq_positions, lambda ctx, s: native.seq_remove(ctx, s, [0])):
                with pytest.raises(DapqError):
                    call(c.ctx, seq_id)
        remove, get = native._function("llama_memory_seq_pos_rm"), native._function("llama_memory_seq_pos_get")
        assert remove(c.memory, 0, None, 1) == remove(c.memory, 0, None, -1) == -1
        assert get(c.memory, 0, None, 1) == get(c.memory, 0, None, -1) == -1
        assert remove(None, 0, None, 0) == get(None, 0, None, 0) == -2
        assert remove(c.memory, 0, None, 0) == 0
