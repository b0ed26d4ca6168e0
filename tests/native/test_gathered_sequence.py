"""What works with a gathered sequence and what is refused: removal, copies, shifts."""

import llama_cpp
import pytest
from helpers.context import Context
from helpers.gathered import (
    N_KEEP,
    UNEVEN,
    WINDOW_SPEC,
    assert_same_cells,
    assert_same_logits,
    cells_of,
    random_keep,
    remove,
)
from helpers.tiny import Spec
from helpers.tokens import N_PROMPT, PROBE, PROMPT

from dapq_edge.errors import DapqError
from dapq_edge.llamacpp import native


@pytest.mark.parametrize("unified", [False, True])
def test_only_all_gathered_cells_are_removed(tiny_model, unified):
    """Later ones are removed as usual; afterwards the sequence is an ordinary one."""
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=unified) as c:
        assert c.decode(PROMPT, 0) == 0
        assert c.decode(PROMPT, 0, seq_id=1) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, N_KEEP))
        gathered = c.state()
        assert c.decode(PROBE, N_PROMPT) == 0
        before, cells = c.state(0), native.seq_positions(c.ctx, 0)
        for seq_id in (0, -1):
            for first, last in ((N_PROMPT - 1, -1), (10, 60), (0, N_PROMPT - 1), (int(cells[0]) + 1, 2000), (-1, 20)):
                assert not remove(c, seq_id, first, last)
        for positions in (cells[:1], cells[: N_KEEP + 1], cells[N_KEEP - 1 :], cells):
            with pytest.raises(DapqError):
                native.seq_remove(c.ctx, 0, positions)
        for pos in (0, 10, N_PROMPT - 1):
            with pytest.raises(DapqError):
                native.probe(c.ctx, 0, PROBE, pos)
        assert c.state(0) == before
        native.probe(c.ctx, 0, PROBE, N_PROMPT)
        assert native.seq_remove(c.ctx, 0, cells[N_KEEP + 2 : N_KEEP + 4]) == 2
        assert remove(c, 0, N_PROMPT)
        assert c.state(0) == gathered
        assert c.decode(PROBE, N_PROMPT) == 0
        assert c.state(0) == before
        assert remove(c, -1, N_PROMPT)
        assert native.seq_positions(c.ctx, 1).size == N_PROMPT
        assert remove(c, 0)
        assert native.seq_positions(c.ctx, 0).size == 0
        assert c.decode(PROMPT, 0) == 0
        assert cells_of(c, 0)[0].last_gathered is None
        assert remove(c, 0, 10, 20)
        assert native.seq_remove(c.ctx, 0, [5]) == 1


@pytest.mark.parametrize("how", ["seq_keep", "clear", "seq_rm"])
def test_every_removal_ends_the_gathered_part(tiny_model, how):
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, N_KEEP))
        if how == "seq_keep":
            llama_cpp.llama_memory_seq_keep(c.memory, 1)
        elif how == "clear":
            llama_cpp.llama_memory_clear(c.memory, True)
        else:
            assert remove(c, -1)
        assert c.decode(PROMPT, 0) == 0
        assert cells_of(c, 0)[0].last_gathered is None
        assert remove(c, 0, 10, 20)


@pytest.mark.parametrize(("unified", "n_keep"), [(False, N_KEEP), (True, N_KEEP), (True, UNEVEN)])
def test_copy_of_a_gathered_sequence(tiny_model, unified, n_keep):
    """The whole sequence or nothing; the copy is gathered, too."""
    with Context(tiny_model(Spec()), n_seq_max=3, kv_unified=unified) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, n_keep))
        before = cells_of(c, 0)[0]
        if unified:
            for first, last in ((0, 50), (10, -1), (-1, N_PROMPT - 1)):
                llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, first, last)
                assert native.seq_positions(c.ctx, 1).size == 0
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        logits = []
        for seq_id in (0, 1):
            assert c.decode(PROBE, N_PROMPT, seq_id) == 0
            logits.append(c.logits)
            assert not remove(c, seq_id, 20)
            assert remove(c, seq_id, N_PROMPT)
        assert_same_logits(*logits)
        assert_same_cells(cells_of(c, 1)[0], before)
        assert remove(c, 0)
        assert not remove(c, 1, 20)
        assert remove(c, 1)


@pytest.mark.parametrize("n_keep", [N_KEEP, UNEVEN])
def test_gathered_cells_are_not_shifted(tiny_model, n_keep):
    """Tokens after them are."""
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, n_keep))
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        assert c.decode(PROBE, N_PROMPT) == 0
        before = c.state(0), c.state(1)
        for first, last in ((20, -1), (0, 50), (-1, N_PROMPT - 1), (-1, -1), (N_PROMPT - 1, -1)):
            llama_cpp.llama_memory_seq_add(c.memory, 0, first, last, 100)
            llama_cpp.llama_memory_seq_div(c.memory, 0, first, last, 2)
        assert (c.state(0), c.state(1)) == before
        llama_cpp.llama_memory_seq_add(c.memory, 0, N_PROMPT, -1, 3)
        assert native.seq_positions(c.ctx, 0)[-1] == N_PROMPT + 2 + len(PROBE)
        assert c.decode(PROBE, N_PROMPT + 3 + len(PROBE)) == 0
        assert c.state(1) == before[1]


def test_window_layers_are_shifted_with_the_others(tiny_model):
    """Without gathered cells everything is as in llama.cpp, also from position -1, the start."""
    with Context(tiny_model(WINDOW_SPEC)) as c:
        assert c.decode(PROMPT, 0) == 0
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        for change, last in (
            (llama_cpp.llama_memory_seq_add, 100 + N_PROMPT - 1),
            (llama_cpp.llama_memory_seq_div, 87),
        ):
            change(c.memory, 0, -1, -1, 100 if last > 100 else 2)
            assert llama_cpp.llama_memory_seq_pos_max(c.memory, 0) == native.seq_positions(c.ctx, 0)[-1] == last
