"""Saving and loading gathered sequences."""

import struct

import pytest
from helpers.context import Context
from helpers.gathered import (
    ARCHS,
    N_KEEP,
    UNEVEN,
    assert_same_cells,
    assert_same_logits,
    cells_of,
    load,
    load_whole,
    parse,
    random_keep,
    remove,
    whole_state,
)
from helpers.tiny import Spec
from helpers.tokens import N_PROMPT, PROBE, PROMPT, random_tokens

from dapq_edge.llamacpp import native


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("unified", [False, True])
def test_save_and_load(tiny_model, arch, flash_attn, unified):
    """One sequence and all of them, into a fresh context; what was gathered stays so."""
    options = {"n_seq_max": 2, "kv_unified": unified, "flash_attn": flash_attn}
    path = tiny_model(ARCHS[arch])
    with Context(path, **options) as c, Context(path, **options) as fresh:
        assert c.decode(PROMPT[::-1], 0, seq_id=1) == 0
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, N_KEEP))
        state = c.state(0)
        everything = whole_state(c)
        assert c.decode(PROBE, N_PROMPT) == 0
        expected = c.logits
        for seq_id in (0, 1):
            assert load(fresh, state, seq_id) == len(state)
            assert not remove(fresh, seq_id, 20)
            for actual, stored in zip(cells_of(fresh, seq_id), parse(state, 2), strict=True):
                assert_same_cells(actual, stored)
            assert fresh.decode(PROBE, N_PROMPT, seq_id) == 0
            assert_same_logits(fresh.logits, expected)
        assert load(c, state) == len(state)
        assert c.decode(PROBE, N_PROMPT) == 0
        assert_same_logits(c.logits, expected)
        assert load_whole(fresh, everything) == len(everything)
        assert not remove(fresh, 0, 20)
        assert remove(fresh, 1, 20)
        assert fresh.decode(PROBE, N_PROMPT) == 0
        assert_same_logits(fresh.logits, expected)


@pytest.mark.parametrize("n_keep", [N_KEEP, UNEVEN])
def test_broken_states_are_refused(tiny_model, n_keep):
    """And leave an ordinary, empty sequence."""
    with Context(tiny_model(Spec()), n_ctx=256) as c, Context(tiny_model(Spec()), n_ctx=256) as fresh:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, n_keep))
        state = c.state()
        for size in (*range(60), 100, 400, len(state) // 2, len(state) - 1):
            assert load(c, state[:size]) == 0
        # the number of cells, the version, the number of layers that lack cells, and how many they lack
        fields = {12: (2**31, 2**32 - 1), 16: (1, 3), 20: (2, 2**31), 24: (20,), 28: (2**31,)}
        for offset, value in ((offset, value) for offset, values in fields.items() for value in values):
            broken = bytearray(state)
            struct.pack_into("<I", broken, offset, value)
            if offset < 24 or n_keep == UNEVEN:
                assert load(c, bytes(broken)) == 0
        assert native.seq_positions(c.ctx, 0).size == 0
        for context in (c, fresh):
            assert context.decode(random_tokens(256, 3), 0) == 0
        assert c.logits.tobytes() == fresh.logits.tobytes()
        assert load(c, state) == len(state)
        assert c.state() == state


@pytest.mark.parametrize("flash_attn", [False, True])
def test_save_and_load_uneven_layers(tiny_model, flash_attn):
    """Into the same context, into an empty one and as a whole; without the first cells it is refused."""
    options, path = {"n_seq_max": 2, "kv_unified": True, "flash_attn": flash_attn}, tiny_model(Spec())
    with Context(path, **options) as c, Context(path, **options) as fresh:
        assert c.decode(PROMPT, 0) == 0
        assert c.decode(PROMPT[::-1], 0, seq_id=1) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, UNEVEN))
        state, everything = c.state(), whole_state(c)
        assert c.decode(PROBE, N_PROMPT) == 0
        expected = c.logits
        for context, seq_id in ((c, 0), (fresh, 1)):
            assert load(context, state, seq_id) == len(state)
            assert_same_cells(cells_of(context, seq_id)[0], parse(state, 2)[0])
            assert not remove(context, seq_id, 20)
            assert context.decode(PROBE, N_PROMPT, seq_id) == 0
            assert_same_logits(context.logits, expected)
        before = fresh.state(1)
        assert load(fresh, state, 0) == 0
        assert fresh.state(1) == before
        assert native.seq_positions(fresh.ctx, 0).size == 0
        assert load_whole(fresh, everything) == len(everything)
        assert not remove(fresh, 0, 20)
        assert remove(fresh, 1, 20)
        assert fresh.decode(PROBE, N_PROMPT) == 0
        assert_same_logits(fresh.logits, expected)


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("n_keep", [None, 7, [8, 12, 5]])
@pytest.mark.parametrize("target", ["fresh", "itself"])
def test_save_and_load_after_uneven_layers_and_resize(tiny_model, flash_attn, n_keep, target):
    """Also after another gather, which finds no memory for the first cells of some layers."""
    path, pos = tiny_model(Spec()), N_PROMPT + len(PROBE)
    with Context(path, flash_attn=flash_attn) as c, Context(path, flash_attn=flash_attn) as fresh:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, UNEVEN))
        native.resize(c.ctx, 100)
        assert c.decode(PROBE, N_PROMPT) == 0
        if n_keep:
            native.seq_gather(c.ctx, 0, 0, random_keep(c, n_keep, 1, missing=[0, 12, 7]))
        state, everything = c.state(), whole_state(c)
        assert c.decode(PROBE, pos) == 0
        expected, context = c.logits, c if target == "itself" else fresh
        for restore, data in ((load, state), (load_whole, everything)):
            assert restore(context, data) == len(data)
            assert_same_cells(cells_of(context, 0)[0], parse(state, 2)[0])
            assert context.decode(PROBE, pos) == 0
            assert_same_logits(context.logits, expected)
