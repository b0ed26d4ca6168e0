"""The gather: which bytes it moves, what the heads see afterwards, and what it refuses."""

import llama_cpp
import numpy as np
import psutil
import pytest
from helpers.context import Context
from helpers.gathered import (
    ARCHS,
    CACHES,
    N_KEEP,
    STEPS,
    WINDOW_SPEC,
    Reference,
    assert_same_attention,
    assert_same_cells,
    assert_same_logits,
    cells_of,
    keep_all,
    missing_cells,
    random_keep,
    remove,
    steps,
)
from helpers.tiny import Spec, forward
from helpers.tokens import HEADS, N_PROMPT, PROBE, PROMPT, random_tokens

from dapq_edge.errors import DapqError, NoFreeCellsError, UnsupportedModelError
from dapq_edge.llamacpp import native
from dapq_edge.llamacpp.native import ProbeType


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("dst", [0, 2])
@pytest.mark.parametrize(
    ("heads", "cache"), [("gqa", cache) for cache in CACHES] + [(h, c) for h in ("mha", "mqa") for c in CACHES[4:6]]
)
def test_moves_the_bytes_of_each_head(tiny_model, heads, cache, unified, dst):
    """From scattered cells, next to another sequence."""
    (n_head, n_head_kv), (type_k, type_v, flash_attn) = HEADS[heads], cache
    spec = Spec(n_head=n_head, n_head_kv=n_head_kv)
    options = {
        "n_seq_max": 3,
        "kv_unified": unified,
        "n_ctx": 768,
        "type_k": type_k,
        "type_v": type_v,
        "flash_attn": flash_attn,
    }
    with Context(tiny_model(spec), n_threads=2, **options) as c:
        for first in (0, 25, 50):
            assert c.decode(PROMPT[first : first + 25], first) == 0
            assert c.decode(PROMPT[::-1][first : first + 20], first // 25 * 20, seq_id=1) == 0
        native.seq_remove(c.ctx, 0, [3, 4, 30])
        (before,), logits = cells_of(c, 0, n_head_kv), c.logits.tobytes()
        states = c.state(0), c.state(1)
        keep = random_keep(c, N_KEEP)
        native.seq_gather(c.ctx, 0, dst, keep)
        (after,) = cells_of(c, dst, n_head_kv)
        assert c.state(1) == states[1]
        assert c.logits.tobytes() == logits
        assert (c.state(0) == states[0]) == (dst != 0)
        expected = before.positions[np.concatenate(keep)].max(axis=0)
        expected[-1] = N_PROMPT - 1
        assert after.positions.tolist() == expected.tolist() == native.seq_positions(c.ctx, dst).tolist()
        assert (before.last_gathered, after.last_gathered) == (None, N_PROMPT - 1)
        assert len(after.data) == 2 * spec.n_layer
        for actual, stored, kept in zip(after.data, before.data, keep * 2, strict=True):
            assert (actual == np.take_along_axis(stored, kept.T[..., None], axis=0)).all()


@pytest.mark.parametrize("name", ["uneven", "mixed"])
@pytest.mark.parametrize("cache", CACHES)
def test_moves_the_bytes_of_uneven_layers(tiny_model, cache, name):
    """Twice, with another sequence behind, and each layer counts its own cells."""
    type_k, type_v, flash_attn = cache
    with Context(
        tiny_model(Spec()), n_seq_max=2, kv_unified=True, type_k=type_k, type_v=type_v, flash_attn=flash_attn
    ) as c:
        assert c.decode(PROMPT, 0) == 0
        assert c.decode(PROMPT[::-1], 0, seq_id=1) == 0
        other, missing, pos = c.state(1), [0] * 3, N_PROMPT
        for seed, n_keep in enumerate(STEPS[name]):
            (before,) = cells_of(c, 0)
            keep = random_keep(c, n_keep, seed, missing=missing)
            native.seq_gather(c.ctx, 0, 0, keep)
            (after,) = cells_of(c, 0)
            assert after.positions.size == max(heads.shape[1] for heads in keep)
            assert after.last_gathered == pos - 1
            assert (np.diff(after.positions) > 0).all()
            assert after.positions[-1] == pos - 1
            for actual, stored, kept, first in zip(after.data, before.data, keep * 2, missing * 2, strict=True):
                assert (actual == np.take_along_axis(stored, (kept - first).T[..., None], axis=0)).all()
            assert c.state(1) == other
            missing = missing_cells(keep)
            assert c.decode(PROBE, pos) == 0
            pos += len(PROBE)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("dst", [0, 1])
def test_keeping_all_gives_the_stock_logits(tiny_model, arch, flash_attn, unified, dst):
    options = {"n_seq_max": 2, "kv_unified": unified, "flash_attn": flash_attn}
    path = tiny_model(ARCHS[arch])
    with Context(path, **options) as c, Context(path, **options) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, dst, keep_all(c))
        for token in range(3):
            assert c.decode(PROBE[token : token + 1], N_PROMPT + token, dst) == 0
            assert stock.decode(PROBE[token : token + 1], N_PROMPT + token) == 0
            assert_same_logits(c.logits, stock.logits)
            assert dst or c.logits.tobytes() == stock.logits.tobytes()


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("dst", [0, 1])
def test_keeping_all_of_scattered_cells(tiny_model, flash_attn, dst):
    """The cells change places; the model does not notice."""
    spec = Spec()
    with Context(tiny_model(spec), n_seq_max=2, kv_unified=True, flash_attn=flash_attn) as c:
        for first in range(0, N_PROMPT, 10):
            assert c.decode(random_tokens(7, first), first // 10 * 7, seq_id=1) == 0
            assert c.decode(PROMPT[first : first + 10], first) == 0
        assert remove(c, 1)
        native.seq_gather(c.ctx, 0, dst, keep_all(c))
        assert c.decode(PROBE, N_PROMPT, dst) == 0
        expected = forward(spec, PROMPT + PROBE, list(range(N_PROMPT + len(PROBE))), "f16", "f16")[1][-1]
        assert_same_logits(c.logits, expected, 0.02)


@pytest.mark.parametrize("spec", [Spec(n_head_kv=4), Spec(), Spec(n_head_kv=1), WINDOW_SPEC], ids=[*HEADS, "gemma2"])
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize(("name", "dst"), [("even", 0), ("even", 1), ("uneven", 0), ("mixed", 0)])
def test_heads_see_only_what_they_kept(tiny_model, spec, flash_attn, name, dst):
    """Twice, against the numpy transformer with the other cells masked head by head; a probe reports them as well."""
    reference, src, pos, missing = Reference(spec, PROMPT), 0, N_PROMPT, None
    with Context(tiny_model(spec), n_seq_max=2, kv_unified=True, flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        for seed, n_keep in enumerate(steps(spec, name)):
            keep = random_keep(c, n_keep, seed, src, missing)
            missing, stock = missing_cells(keep), reference.logits
            native.seq_gather(c.ctx, src, dst, keep)
            reference.gather(keep)
            attention = native.probe(c.ctx, dst, PROBE, pos, ProbeType.NONE)
            cells = reference.cells
            reference.decode(PROBE, pos)
            assert_same_attention(attention, reference, cells)
            assert c.decode(PROBE, pos, dst) == 0
            src, pos = dst, pos + len(PROBE)
            assert_same_logits(c.logits, reference.logits, 0.02)
            assert np.abs(c.logits - stock).max() > 0.2 * np.abs(stock).max()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("unified", [False, True])
def test_branch_leaves_its_parent_alone(tiny_model, arch, flash_attn, unified):
    options = {"n_seq_max": 2, "kv_unified": unified, "flash_attn": flash_attn}
    path = tiny_model(ARCHS[arch])
    with Context(path, **options) as c, Context(path, **options) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
        before = c.state(0)
        for seed in range(2):
            native.seq_gather(c.ctx, 0, 1, random_keep(c, N_KEEP, seed))
            for i, token in enumerate(random_tokens(20, seed)):
                assert c.decode([token], N_PROMPT + i, seq_id=1) == 0
            native.probe(c.ctx, 1, PROBE, N_PROMPT + 20)
            assert c.state(0) == before
            assert remove(c, 1)
            assert c.state(0) == before
        for context in (c, stock):
            assert context.decode(PROBE, N_PROMPT) == 0
        assert_same_logits(c.logits, stock.logits)


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("dst", [0, 1])
def test_the_window_layers_keep_their_rows(tiny_model, unified, dst):
    """A copy has the same window, also when it is saved before the next token."""
    with Context(tiny_model(WINDOW_SPEC), n_seq_max=2, kv_unified=unified, n_ubatch=32) as c:
        assert c.decode(PROMPT, 0) == 0
        _, before = cells_of(c, 0)
        assert before.positions.size == WINDOW_SPEC.window
        native.seq_gather(c.ctx, 0, dst, random_keep(c, N_KEEP))
        full, window = cells_of(c, dst)
        assert full.positions.size == N_KEEP
        assert_same_cells(window, before)


def test_branch_when_the_window_cache_is_full(tiny_model):
    """What has left the window is not shared: both sequences go on, and see what they do with room to spare."""
    prompt, more, options = (
        random_tokens(400, 1),
        random_tokens(40, 2),
        {"n_ctx": 1024, "n_seq_max": 2, "kv_unified": True},
    )
    path = tiny_model(Spec(arch="gemma2", n_layer=4, window=40))
    with Context(path, n_ubatch=32, **options) as c, Context(path, n_ubatch=512, **options) as roomy:
        for context in (c, roomy):
            assert context.decode(prompt, 0) == 0
            native.seq_gather(context.ctx, 0, 1, random_keep(context, N_KEEP))
        for pos, token in enumerate(more, start=len(prompt)):
            for seq_id in (1, 0):
                assert c.decode([token], pos, seq_id) == roomy.decode([token], pos, seq_id) == 0
                assert_same_logits(c.logits, roomy.logits)


@pytest.mark.parametrize(("n_keep", "resize"), [([206] * 3, False), ([206, 100, 30], False), ([206, 100, 30], True)])
def test_cycles_in_a_context_that_is_just_large_enough(tiny_model, n_keep, resize):
    """No cell and no memory is lost, and positions go on."""
    with Context(tiny_model(Spec()), n_ctx=256) as c:
        assert c.decode(random_tokens(256, 1), 0) == 0
        missing, pos, size, rss = None, 256, native.memory_bytes(c.ctx), []
        for cycle in range(200):
            native.seq_gather(c.ctx, 0, 0, random_keep(c, n_keep, cycle, missing=missing))
            missing = [206 - n for n in n_keep]
            positions = native.seq_positions(c.ctx, 0)
            assert positions.size == 206
            assert positions[-1] == pos - 1
            assert (np.diff(positions) > 0).all()
            if resize:
                native.resize(c.ctx, 206)
                assert native.memory_bytes(c.ctx) < 0.65 * size
                native.resize(c.ctx, 256)
            assert native.n_cells(c.ctx) == 256
            assert c.decode(random_tokens(50, cycle), pos) == 0
            pos += 50
            assert native.seq_positions(c.ctx, 0)[206:].tolist() == list(range(pos - 50, pos))
            rss.append(psutil.Process().memory_info().rss)
        assert native.memory_bytes(c.ctx) == size or resize
        assert rss[-1] - rss[50] < 4 << 20


def test_pending_copies_and_shifts_come_first(tiny_model):
    with Context(tiny_model(Spec()), n_seq_max=2) as c, Context(tiny_model(Spec()), n_seq_max=2) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
            llama_cpp.llama_memory_seq_cp(context.memory, 0, 1, -1, -1)
            llama_cpp.llama_memory_seq_add(context.memory, 1, -1, -1, 50)
        native.seq_gather(c.ctx, 1, 1, keep_all(c))
        for context in (c, stock):
            llama_cpp.llama_memory_seq_add(context.memory, 0, -1, -1, 20)
        native.resize(c.ctx, 512)
        for seq_id, pos in ((1, N_PROMPT + 50), (0, N_PROMPT + 20)):
            for context in (c, stock):
                assert context.decode(PROBE, pos, seq_id) == 0
            assert_same_logits(c.logits, stock.logits)


def test_invalid_gathers_change_nothing(tiny_model):
    good = [np.tile(np.arange(5, 25), (2, 1))] * 3
    bad_cells = {
        "down": np.arange(25, 5, -1), "twice": np.repeat(np.arange(10), 2), "negative": np.arange(-1, 19),
        "far": np.arange(N_PROMPT - 19, N_PROMPT + 1), "lowest": np.append(-(2**31), np.arange(19)),
        "highest": np.append(np.arange(19), 2**31 - 1),
    }  # fmt: skip
    bad = [good[:2], [*good, good[0]], [x[:1] for x in good], [x[:, :0] for x in good], [good[0], good[1], good[2][:1]]]
    for cells in bad_cells.values():
        for il in (0, 2):
            bad.append([np.stack([good[0][0], cells]) if i == il else x for i, x in enumerate(good)])
    bad.append([np.tile(np.arange(N_PROMPT + 1), (2, 1))] * 3)
    with Context(tiny_model(Spec()), n_seq_max=4, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        assert c.decode(PROMPT, 0, seq_id=1) == 0
        before = [c.state(seq_id) for seq_id in range(4)]
        for dst in (0, 2):
            for keep in (*bad, []):
                with pytest.raises(DapqError):
                    native.seq_gather(c.ctx, 0, dst, keep)
        for src, dst in ((-1, 0), (0, -1), (4, 0), (0, 4), (0, 1), (3, 3), (3, 2), (2**31 - 1, 0)):
            with pytest.raises(DapqError):
                native.seq_gather(c.ctx, src, dst, good)
        gather = native._function("llama_memory_seq_gather")
        n_keep, cells = native._int32([20] * 3), native._int32(np.concatenate(good).ravel())
        counts, keep = native._pointer(n_keep, native._INT32_P), native._pointer(cells, native._INT32_P)
        for n in (cells.size - 1, cells.size + 1, 0, -1, cells.size + 2**32, 2**62):
            assert gather(c.ctx, 0, 2, counts, 3, keep, n) == -1
        for n_layer in (2, 4, 0, -1, 2**31 - 1):
            assert gather(c.ctx, 0, 2, counts, n_layer, keep, cells.size) == -1
        assert gather(c.ctx, 0, 2, None, 3, keep, cells.size) == gather(c.ctx, 0, 2, counts, 3, None, cells.size) == -1
        assert gather(None, 0, 2, counts, 3, keep, cells.size) == -2
        assert [c.state(seq_id) for seq_id in range(4)] == before
        llama_cpp.llama_memory_seq_cp(c.memory, 1, 2, -1, -1)
        for seq_id in (1, 2):
            with pytest.raises(DapqError):
                native.seq_gather(c.ctx, seq_id, seq_id, good)
        assert c.state(1) == before[1]
        native.seq_gather(c.ctx, 1, 3, good)
        assert c.state(1) == before[1]
        assert native.seq_positions(c.ctx, 3).size == 20


def test_no_free_cells_for_a_copy(tiny_model):
    with Context(tiny_model(Spec()), n_ctx=256, n_seq_max=2, kv_unified=True) as c:
        assert c.decode(random_tokens(200, 8), 0) == 0
        before = c.state()
        for n_keep in (57, 200):
            with pytest.raises(NoFreeCellsError, match="raise n_ctx"):
                native.seq_gather(c.ctx, 0, 1, random_keep(c, n_keep))
        assert c.state() == before
        assert native.seq_positions(c.ctx, 1).size == 0
        native.seq_gather(c.ctx, 0, 1, random_keep(c, 56))
        assert c.decode(PROBE, 200) == 1
        assert remove(c, 1)
        assert c.decode(PROBE, 200) == 0


def test_copy_into_a_sequence_that_has_only_a_window(tiny_model):
    """`seq_remove` leaves the window of a sequence: it is not empty, or its window is replaced."""
    options = {"n_seq_max": 2, "kv_unified": True}
    with Context(tiny_model(WINDOW_SPEC), **options) as c, Context(tiny_model(WINDOW_SPEC), **options) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
        assert c.decode(random_tokens(N_PROMPT, 9), 0, seq_id=1) == 0
        native.seq_remove(c.ctx, 1, range(N_PROMPT))
        try:
            native.seq_gather(c.ctx, 0, 1, keep_all(c))
        except DapqError:
            return
        assert stock.decode(PROBE, N_PROMPT) == c.decode(PROBE, N_PROMPT, seq_id=1) == 0
        assert_same_logits(c.logits, stock.logits)


def test_unsupported_models(tiny_model, recurrent_model):
    """Without cells, with a bias by position, and with a window in every layer."""
    specs = Spec(arch="refact"), Spec(arch="gemma2", n_layer=1)
    for path in (recurrent_model, *map(tiny_model, specs)):
        with Context(path) as c:
            assert c.decode(PROMPT, 0) == 0
            before = c.state()
            assert native.gather_heads(c.ctx) == {}
            with pytest.raises(UnsupportedModelError):
                native.seq_gather(c.ctx, 0, 0, [np.tile(np.arange(10), (2, 1))] * 3)
            if path != tiny_model(specs[0]):
                with pytest.raises(UnsupportedModelError):
                    native.n_cells(c.ctx)
                with pytest.raises(UnsupportedModelError):
                    native.resize(c.ctx, 100)
            assert c.state() == before
            assert native.memory_bytes(c.ctx) > 0
