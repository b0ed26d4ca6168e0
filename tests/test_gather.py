"""Gathering of cells by KV head: the bytes that move, what decoding sees afterwards, and what is refused."""

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

import llama_cpp
import numpy as np
import psutil
import pytest
import tiny
from context import TYPES, Context
from test_probe import HEADS, N_PROMPT, PROBE, PROMPT, random_tokens
from tiny import Spec, forward, write_recurrent_gguf

from dapq_edge import native
from dapq_edge.errors import DapqError, NoFreeCellsError, UnsupportedModelError

N_KEEP = 30
WINDOW_SPEC = Spec(arch="gemma2", n_layer=4)
ARCHS = {"llama": Spec(), "gemma2": WINDOW_SPEC}

# K type, V type, flash attention: without it V is transposed and cannot be quantized
CACHES = [
    *((kind, kind, True) for kind in TYPES),
    ("f16", "f16", False),
    ("bf16", "bf16", False),
    ("q8_0", "f16", False),
    ("q5_0", "q4_0", True),
]


@dataclass
class Cells:
    """What a state of one sequence has of one cache, in the order of the positions."""

    last_gathered: int | None
    positions: np.ndarray
    data: list[np.ndarray]  # K of each layer, then V of each layer: uint8 [cells, KV heads, bytes]


def parse(state: bytes, n_head_kv: int) -> list[Cells]:
    """The caches of a state: the one of the full-attention layers, and the one of the layers with a window."""
    offset, caches = 8, []

    def take(size: int) -> int:
        nonlocal offset
        offset += size
        return offset - size

    def read(code: str) -> tuple:
        return struct.unpack_from(f"<{code}", state, take(struct.calcsize(f"<{code}")))

    def rows(*shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        return np.frombuffer(state, np.uint8, size, take(size)).reshape(shape)

    while offset < len(state):
        for count in (read("I")[0] for _ in range(read("I")[0])):
            if count == 0:
                continue
            last_gathered, missing = None, ()
            if count >> 31:
                n_seq, _, last_gathered, n_layer = read("IIiI")
                assert n_seq == 1
                missing = read(f"{n_layer}I")
            count &= 2**31 - 1
            positions = np.array([read("iIi")[0] for _ in range(count)])
            transposed, n_layer = read("II")
            data = []
            for i in range(2 * n_layer):
                first = missing[i % n_layer] if missing else 0
                if transposed and i >= n_layer:
                    _, size, n_embd = read("iII")
                    layer = rows(n_embd, count - first, size).transpose(1, 0, 2).reshape(count - first, n_head_kv, -1)
                else:
                    layer = rows(count - first, n_head_kv, read("iQ")[1] // n_head_kv)
                data.append(layer[np.argsort(positions[first:], kind="stable")])
            caches.append(Cells(last_gathered, np.sort(positions), data))
    assert offset == len(state)
    return caches


def cells_of(c: Context, seq_id: int, n_head_kv: int = 2) -> list[Cells]:
    return parse(c.state(seq_id), n_head_kv)


def random_keep(c: Context, n_keep: int | Sequence[int], seed: int = 0, seq_id: int = 0) -> list[np.ndarray]:
    """Other cells in each head; n_keep: one number, or one of each layer."""
    rng, heads = np.random.default_rng(seed), list(native.gather_heads(c.ctx).values())
    n_cells = native.seq_positions(c.ctx, seq_id).size
    counts = [n_keep] * len(heads) if isinstance(n_keep, int) else n_keep
    return [
        np.sort([rng.choice(n_cells, count, replace=False) for _ in range(n_head)])
        for n_head, count in zip(heads, counts, strict=True)
    ]


def keep_all(c: Context, seq_id: int = 0) -> list[np.ndarray]:
    n_cells = native.seq_positions(c.ctx, seq_id).size
    return [np.tile(np.arange(n_cells), (n_head, 1)) for n_head in native.gather_heads(c.ctx).values()]


def load(c: Context, state: bytes, seq_id: int = 0) -> int:
    return llama_cpp.llama_state_seq_set_data(c.ctx, (ctypes.c_uint8 * len(state)).from_buffer_copy(state), len(state), seq_id)


def remove(c: Context, seq_id: int, first: int = -1, last: int = -1) -> bool:
    return llama_cpp.llama_memory_seq_rm(c.memory, seq_id, first, last)


def assert_same_cells(actual: Cells, expected: Cells) -> None:
    assert actual.last_gathered == expected.last_gathered
    assert actual.positions.tolist() == expected.positions.tolist()
    assert all((x == y).all() for x, y in zip(actual.data, expected.data, strict=True))


def assert_same_logits(actual: np.ndarray, expected: np.ndarray, tolerance: float = 5e-3) -> None:
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


class Reference:
    """The numpy transformer with heads that see only the cells they kept."""

    def __init__(self, spec: Spec, tokens: Sequence[int]) -> None:
        self.spec, self.tokens, self.positions, self.hidden = spec, [], [], []
        self.cells = [[np.arange(0)] * spec.n_head_kv for _ in spec.full_layers]
        self.decode(tokens, 0)

    def decode(self, tokens: Sequence[int], pos: int) -> None:
        first = len(self.tokens)
        self.tokens += tokens
        self.positions += range(pos, pos + len(tokens))
        self.cells = [[np.append(head, np.arange(first, len(self.tokens))) for head in heads] for heads in self.cells]

    def gather(self, keep: Sequence[np.ndarray]) -> None:
        self.cells = [[head[i] for head, i in zip(*layer, strict=True)] for layer in zip(self.cells, keep, strict=True)]
        self.hidden.append((len(self.tokens), self.cells))

    @property
    def logits(self) -> np.ndarray:
        spec, n = self.spec, len(self.tokens)
        visible = np.ones((spec.n_layer, spec.n_head_kv, n, n), dtype=bool)
        for first, layers in self.hidden:
            for il, heads in zip(spec.full_layers, layers, strict=True):
                for head, cells in enumerate(heads):
                    visible[il, head, first:, np.setdiff1d(np.arange(first), cells)] = False
        masks = iter(visible.repeat(spec.n_head // spec.n_head_kv, axis=1))
        softmax = tiny.softmax
        with mock.patch.object(tiny, "softmax", lambda x: softmax(np.where(next(masks), x, -np.inf))):
            return forward(spec, self.tokens, self.positions, "f16", "f16")[1][-1]


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("dst", [0, 2])
@pytest.mark.parametrize("heads, cache", [("gqa", cache) for cache in CACHES] + [(h, c) for h in ("mha", "mqa") for c in CACHES[4:6]])
def test_moves_the_bytes_of_each_head(tiny_model, heads, cache, unified, dst):
    """From scattered cells, next to another sequence."""
    (n_head, n_head_kv), (type_k, type_v, flash_attn) = HEADS[heads], cache
    spec = Spec(n_head=n_head, n_head_kv=n_head_kv)
    options = dict(n_seq_max=3, kv_unified=unified, n_ctx=768, type_k=type_k, type_v=type_v, flash_attn=flash_attn)
    with Context(tiny_model(spec), **options) as c:
        for first in (0, 25, 50):
            assert c.decode(PROMPT[first : first + 25], first) == 0
            assert c.decode(PROMPT[::-1][first : first + 20], first // 25 * 20, seq_id=1) == 0
        native.seq_remove(c.ctx, 0, [3, 4, 30])
        (before,), logits = cells_of(c, 0, n_head_kv), c.logits.tobytes()
        states = c.state(0), c.state(1)
        keep = random_keep(c, N_KEEP)
        native.seq_gather(c.ctx, 0, dst, keep)
        (after,) = cells_of(c, dst, n_head_kv)
        assert c.state(1) == states[1] and c.logits.tobytes() == logits
        assert (c.state(0) == states[0]) == (dst != 0)
        expected = before.positions[np.concatenate(keep)].max(axis=0)
        expected[-1] = N_PROMPT - 1
        assert after.positions.tolist() == expected.tolist() == native.seq_positions(c.ctx, dst).tolist()
        assert (before.last_gathered, after.last_gathered) == (None, N_PROMPT - 1)
        assert len(after.data) == 2 * spec.n_layer
        for actual, stored, kept in zip(after.data, before.data, keep * 2, strict=True):
            assert (actual == np.take_along_axis(stored, kept.T[..., None], axis=0)).all()
        assert native.seq_bytes(c.ctx, dst) == sum(x.size for x in after.data)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("dst", [0, 1])
def test_keeping_all_gives_the_stock_logits(tiny_model, arch, flash_attn, unified, dst):
    options = dict(n_seq_max=2, kv_unified=unified, flash_attn=flash_attn)
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
@pytest.mark.parametrize("dst", [0, 1])
def test_heads_see_only_what_they_kept(tiny_model, spec, flash_attn, dst):
    """Twice, against the numpy transformer with the other cells masked head by head."""
    reference = Reference(spec, PROMPT)
    with Context(tiny_model(spec), n_seq_max=2, flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        pos = N_PROMPT
        for seed, n_keep in enumerate((20, 12)):
            src, seq_id = (0, dst) if seed == 0 else (dst, dst)
            keep = random_keep(c, n_keep, seed, src)
            stock = reference.logits
            native.seq_gather(c.ctx, src, seq_id, keep)
            reference.gather(keep)
            reference.decode(PROBE, pos)
            assert c.decode(PROBE, pos, seq_id) == 0
            pos += len(PROBE)
            assert_same_logits(c.logits, reference.logits, 0.02)
            assert np.abs(c.logits - stock).max() > 0.2 * np.abs(stock).max()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("unified", [False, True])
def test_branch_leaves_its_parent_alone(tiny_model, arch, flash_attn, unified):
    options = dict(n_seq_max=2, kv_unified=unified, flash_attn=flash_attn)
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


def test_cycles_in_a_context_that_is_just_large_enough(tiny_model):
    """No cell and no memory is lost, and positions go on."""
    n_keep, n_new = 206, 50
    with Context(tiny_model(Spec()), n_ctx=n_keep + n_new) as c:
        pos, rss = 0, []
        for cycle in range(200):
            assert c.decode(random_tokens(n_keep + n_new if cycle == 0 else n_new, cycle), pos) == 0
            pos += n_keep + n_new if cycle == 0 else n_new
            positions = native.seq_positions(c.ctx, 0)
            assert positions.size == n_keep + n_new and positions[-1] == pos - 1
            native.seq_gather(c.ctx, 0, 0, random_keep(c, n_keep, cycle))
            positions = native.seq_positions(c.ctx, 0)
            assert positions.size == n_keep and positions[-1] == pos - 1
            assert (np.diff(positions) > 0).all()
            rss.append(psutil.Process().memory_info().rss)
        assert rss[-1] - rss[50] < 4 << 20


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
            for first, last in ((N_PROMPT - 1, -1), (10, 60), (0, N_PROMPT - 1), (1, 2000), (-1, 20)):
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
        assert remove(c, 0) and native.seq_positions(c.ctx, 0).size == 0
        assert c.decode(PROMPT, 0) == 0
        assert cells_of(c, 0)[0].last_gathered is None
        assert remove(c, 0, 10, 20) and native.seq_remove(c.ctx, 0, [5]) == 1


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
        assert cells_of(c, 0)[0].last_gathered is None and remove(c, 0, 10, 20)


@pytest.mark.parametrize("unified", [False, True])
def test_copy_of_a_gathered_sequence(tiny_model, unified):
    """The whole sequence or nothing; the copy is gathered, too."""
    with Context(tiny_model(Spec()), n_seq_max=3, kv_unified=unified) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, N_KEEP))
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
            assert not remove(c, seq_id, 20) and remove(c, seq_id, N_PROMPT)
        assert_same_logits(*logits)
        assert_same_cells(cells_of(c, 1)[0], before)
        assert remove(c, 0) and not remove(c, 1, 20) and remove(c, 1)


@pytest.mark.parametrize("flash_attn", [False, True])
def test_shift_of_a_gathered_sequence(tiny_model, flash_attn):
    """All of it or nothing; attention sees only distances, so the logits stay."""
    with Context(tiny_model(Spec()), flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, N_KEEP))
        before, positions = c.state(), native.seq_positions(c.ctx, 0)
        for first, last in ((20, -1), (0, 50), (-1, N_PROMPT - 1)):
            llama_cpp.llama_memory_seq_add(c.memory, 0, first, last, 100)
            llama_cpp.llama_memory_seq_div(c.memory, 0, first, last, 2)
        llama_cpp.llama_memory_seq_div(c.memory, 0, -1, -1, 2)
        assert c.state() == before
        assert c.decode(PROBE, N_PROMPT) == 0
        expected = c.logits
        assert remove(c, 0, N_PROMPT)
        llama_cpp.llama_memory_seq_add(c.memory, 0, -1, -1, 100)
        assert native.seq_positions(c.ctx, 0).tolist() == (positions + 100).tolist()
        assert not remove(c, 0, N_PROMPT + 99) and not remove(c, 0, N_PROMPT, 120)
        assert c.decode(PROBE, N_PROMPT + 100) == 0
        assert_same_logits(c.logits, expected, 0.01)
        llama_cpp.llama_memory_seq_add(c.memory, 0, N_PROMPT + 100, -1, 3)
        assert native.seq_positions(c.ctx, 0)[-1] == N_PROMPT + 102 + len(PROBE)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("unified", [False, True])
def test_save_and_load(tiny_model, arch, flash_attn, unified):
    """One sequence and all of them, into a fresh context; what was gathered stays so."""
    options = dict(n_seq_max=2, kv_unified=unified, flash_attn=flash_attn)
    path = tiny_model(ARCHS[arch])
    with Context(path, **options) as c, Context(path, **options) as fresh:
        assert c.decode(PROMPT[::-1], 0, seq_id=1) == 0
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, N_KEEP))
        state = c.state(0)
        size = llama_cpp.llama_state_get_size(c.ctx)
        everything = (ctypes.c_uint8 * size)()
        assert llama_cpp.llama_state_get_data(c.ctx, everything, size) == size
        assert c.decode(PROBE, N_PROMPT) == 0
        expected = c.logits
        for seq_id in (0, 1):
            assert load(fresh, state, seq_id) == len(state)
            assert native.seq_bytes(fresh.ctx, seq_id) == sum(x.size for cells in parse(state, 2) for x in cells.data)
            assert not remove(fresh, seq_id, 20)
            for actual, stored in zip(cells_of(fresh, seq_id), parse(state, 2), strict=True):
                assert_same_cells(actual, stored)
            assert fresh.decode(PROBE, N_PROMPT, seq_id) == 0
            assert_same_logits(fresh.logits, expected)
        assert load(c, state) == len(state) and c.decode(PROBE, N_PROMPT) == 0
        assert_same_logits(c.logits, expected)
        assert llama_cpp.llama_state_set_data(fresh.ctx, everything, size) == size
        assert not remove(fresh, 0, 20) and remove(fresh, 1, 20)
        assert fresh.decode(PROBE, N_PROMPT) == 0
        assert_same_logits(fresh.logits, expected)


def test_truncated_states_are_refused(tiny_model):
    with Context(tiny_model(Spec())) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, N_KEEP))
        state = c.state()
        for size in (*range(40), 100, 12 * N_KEEP, len(state) // 2, len(state) - 1):
            assert load(c, state[:size]) == 0
        broken = bytearray(state)
        struct.pack_into("<I", broken, 16, 2**31)
        assert load(c, bytes(broken)) == 0
        assert load(c, state) == len(state) and c.state() == state


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
@pytest.mark.parametrize("flash_attn", [False, True])
def test_skipped_positions(tiny_model, arch, flash_attn):
    """The next token has to follow after the gap, and attends to the cells before it from there."""
    spec, gap = ARCHS[arch], 100
    with Context(tiny_model(spec), flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        for n in (gap - 3, 3):
            native.seq_skip(c.ctx, 0, n)
        before = c.state()
        for pos in (N_PROMPT, N_PROMPT + gap - 1, N_PROMPT + gap + 1):
            assert c.decode(PROBE, pos) != 0
        assert c.state() == before
        assert c.decode(PROBE, N_PROMPT + gap) == 0
        positions = [*range(N_PROMPT), *range(N_PROMPT + gap, N_PROMPT + gap + len(PROBE))]
        assert_same_logits(c.logits, forward(spec, PROMPT + PROBE, positions, "f16", "f16")[1][-1], 0.02)
        assert not remove(c, 0, N_PROMPT - 1) and remove(c, 0, N_PROMPT + gap)
        keep = random_keep(c, N_KEEP)
        native.seq_gather(c.ctx, 0, 0, keep)
        assert c.decode(PROBE, N_PROMPT + gap) == 0
        reference = Reference(spec, PROMPT)
        reference.gather(keep)
        reference.decode(PROBE, N_PROMPT + gap)
        assert_same_logits(c.logits, reference.logits, 0.02)


def test_invalid_skips(tiny_model):
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        before = c.state()
        for seq_id, n in ((0, -1), (1, 1), (2, 1), (-1, 1), (0, 2**31 - N_PROMPT + 1), (0, 2**31 - 1)):
            with pytest.raises(DapqError):
                native.seq_skip(c.ctx, seq_id, n)
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        with pytest.raises(DapqError):
            native.seq_skip(c.ctx, 0, 1)
        assert native._function("llama_memory_seq_skip")(None, 0, 1) == -2
        assert c.state() == before


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
        assert c.state(1) == before[1] and native.seq_positions(c.ctx, 3).size == 20


def test_no_free_cells_for_a_copy(tiny_model):
    with Context(tiny_model(Spec()), n_ctx=256, n_seq_max=2, kv_unified=True) as c:
        assert c.decode(random_tokens(200, 8), 0) == 0
        before = c.state()
        for n_keep in (57, 200):
            with pytest.raises(NoFreeCellsError, match="raise -c"):
                native.seq_gather(c.ctx, 0, 1, random_keep(c, n_keep))
        assert c.state() == before and native.seq_positions(c.ctx, 1).size == 0
        native.seq_gather(c.ctx, 0, 1, random_keep(c, 56))
        assert c.decode(PROBE, 200) == 1 and remove(c, 1) and c.decode(PROBE, 200) == 0


def test_unsupported_models(tiny_model, tmp_path):
    """Without cells, with a bias by position, and with a window in every layer."""
    specs = Spec(arch="refact"), Spec(arch="gemma2", n_layer=1)
    for path in (write_recurrent_gguf(tmp_path / "mamba.gguf"), *map(tiny_model, specs)):
        with Context(path) as c:
            assert c.decode(PROMPT, 0) == 0
            before = c.state()
            heads = list(native.gather_heads(c.ctx).values())
            assert len(heads) == (3 if path == tiny_model(specs[0]) else 0)
            keep = [np.tile(np.arange(10), (n_head, 1)) for n_head in heads]
            for call in (lambda ctx, keep=keep: native.seq_gather(ctx, 0, 0, keep), lambda ctx: native.seq_skip(ctx, 0, 5)):
                with pytest.raises(UnsupportedModelError):
                    call(c.ctx)
            assert c.state() == before


def test_copy_into_a_sequence_that_has_only_a_window(tiny_model):
    """`seq_remove` leaves the window of a sequence: it is not empty, or its window is replaced."""
    options = dict(n_seq_max=2, kv_unified=True)
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


def test_skip_to_the_last_position(tiny_model):
    """Removing a whole sequence never fails."""
    with Context(tiny_model(Spec())) as c:
        assert c.decode(PROMPT, 0) == 0
        try:
            native.seq_skip(c.ctx, 0, 2**31 - N_PROMPT)
        except DapqError:
            native.seq_skip(c.ctx, 0, 2**31 - N_PROMPT - 1)
        assert remove(c, 0) and native.seq_positions(c.ctx, 0).size == 0


def test_shift_of_shared_gathered_cells(tiny_model):
    """A shift of shared cells shifts them for both sequences: the other one stays gathered up to there."""
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, N_KEEP))
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        llama_cpp.llama_memory_seq_add(c.memory, 0, -1, -1, 10)
        assert native.seq_positions(c.ctx, 1)[-1] == N_PROMPT + 9
        assert not remove(c, 1, N_PROMPT + 5)
