"""Gathering of cells by KV head: the bytes that move, what decoding sees afterwards, and what is refused."""

import ctypes
import resource
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
from dapq_edge.native import ProbeType

N_KEEP = 30
UNEVEN = [20, 8, 13]
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


def random_keep(
    c: Context, n_keep: int | Sequence[int], seed: int = 0, seq_id: int = 0, missing: Sequence[int] | None = None
) -> list[np.ndarray]:
    """Other cells in each head. n_keep: one number, or one of each layer; missing: the first cells each layer lacks."""
    rng, heads = np.random.default_rng(seed), list(native.gather_heads(c.ctx).values())
    n_cells = native.seq_positions(c.ctx, seq_id).size
    counts = [n_keep] * len(heads) if isinstance(n_keep, int) else n_keep
    return [
        np.sort([first + rng.choice(n_cells - first, count, replace=False) for _ in range(n_head)])
        for n_head, count, first in zip(heads, counts, missing or [0] * len(heads), strict=True)
    ]


def missing_cells(keep: Sequence[np.ndarray]) -> list[int]:
    """How many of the first cells each layer lacks after a gather: it has the last ones."""
    n_keep = [heads.shape[1] for heads in keep]
    return [max(n_keep) - n for n in n_keep]


def keep_all(c: Context, seq_id: int = 0) -> list[np.ndarray]:
    n_cells = native.seq_positions(c.ctx, seq_id).size
    return [np.tile(np.arange(n_cells), (n_head, 1)) for n_head in native.gather_heads(c.ctx).values()]


def load(c: Context, state: bytes, seq_id: int = 0) -> int:
    return llama_cpp.llama_state_seq_set_data(
        c.ctx, (ctypes.c_uint8 * len(state)).from_buffer_copy(state), len(state), seq_id
    )


def whole_state(c: Context) -> bytes:
    size = llama_cpp.llama_state_get_size(c.ctx)
    buffer = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_get_data(c.ctx, buffer, size) == size
    return bytes(buffer)


def load_whole(c: Context, state: bytes) -> int:
    return llama_cpp.llama_state_set_data(c.ctx, (ctypes.c_uint8 * len(state)).from_buffer_copy(state), len(state))


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
        """A layer that has fewer cells has the last ones; the indices count those of the layer that has most."""
        n_cells = max(heads[0].size for heads in self.cells)
        self.cells = [
            [head[i - (n_cells - head.size)] for head, i in zip(heads, kept, strict=True)]
            for heads, kept in zip(self.cells, keep, strict=True)
        ]
        self.hidden.append((len(self.tokens), self.cells))

    @property
    def logits(self) -> np.ndarray:
        """Of the last token."""
        return self.forward()[1][-1]

    def forward(self) -> tuple[np.ndarray, np.ndarray]:
        spec, n = self.spec, len(self.tokens)
        visible = np.ones((spec.n_layer, spec.n_head_kv, n, n), dtype=bool)
        for first, layers in self.hidden:
            for il, heads in zip(spec.full_layers, layers, strict=True):
                for head, cells in enumerate(heads):
                    visible[il, head, first:, np.setdiff1d(np.arange(first), cells)] = False
        masks = iter(visible.repeat(spec.n_head // spec.n_head_kv, axis=1))
        softmax = tiny.softmax
        with mock.patch.object(tiny, "softmax", lambda x: softmax(np.where(next(masks), x, -np.inf))):
            return forward(spec, self.tokens, self.positions, "f16", "f16")


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("dst", [0, 2])
@pytest.mark.parametrize(
    "heads, cache", [("gqa", cache) for cache in CACHES] + [(h, c) for h in ("mha", "mqa") for c in CACHES[4:6]]
)
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
            assert after.positions.size == max(heads.shape[1] for heads in keep) and after.last_gathered == pos - 1
            assert (np.diff(after.positions) > 0).all() and after.positions[-1] == pos - 1
            for actual, stored, kept, first in zip(after.data, before.data, keep * 2, missing * 2, strict=True):
                assert (actual == np.take_along_axis(stored, (kept - first).T[..., None], axis=0)).all()
            assert native.seq_bytes(c.ctx, 0) == sum(x.size for x in after.data)
            assert c.state(1) == other
            missing = missing_cells(keep)
            assert c.decode(PROBE, pos) == 0
            pos += len(PROBE)


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


# cells that each layer keeps, at first and later: the same number, or another one in each layer
STEPS = {"even": (20, 12), "uneven": (UNEVEN, [12, 14, 5]), "mixed": ([12, 20, 1], 7)}


def steps(spec: Spec, name: str) -> list[int | list[int]]:
    return [n if isinstance(n, int) else n[: len(spec.full_layers)] for n in STEPS[name]]


@pytest.mark.parametrize("spec", [Spec(n_head_kv=4), Spec(), Spec(n_head_kv=1), WINDOW_SPEC], ids=[*HEADS, "gemma2"])
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("name, dst", [("even", 0), ("even", 1), ("uneven", 0), ("mixed", 0)])
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


def assert_same_attention(actual: np.ndarray, reference: Reference, layers: list[list[np.ndarray]]) -> None:
    """Cells that a layer lacks get 0."""
    spec, n_cells = reference.spec, actual.shape[2]
    weights = reference.forward()[0][spec.full_layers, :, -len(PROBE) :]
    expected = np.zeros((len(layers), spec.n_head, len(PROBE), n_cells))
    for il, heads in enumerate(layers):
        for head in range(spec.n_head):
            cells = heads[head * spec.n_head_kv // spec.n_head]
            expected[il, head, :, n_cells - cells.size :] = weights[il, head][:, cells]
    expected = expected.reshape(actual.shape)
    assert ((actual == 0) == (expected == 0)).all()
    assert np.abs(actual - expected).max() < 0.02 * expected.max()


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


@pytest.mark.parametrize("n_keep, resize", [([206] * 3, False), ([206, 100, 30], False), ([206, 100, 30], True)])
def test_cycles_in_a_context_that_is_just_large_enough(tiny_model, n_keep, resize):
    """No cell and no memory is lost, and positions go on."""
    with Context(tiny_model(Spec()), n_ctx=256) as c:
        assert c.decode(random_tokens(256, 1), 0) == 0
        missing, pos, size, rss = None, 256, native.memory_bytes(c.ctx), []
        for cycle in range(200):
            native.seq_gather(c.ctx, 0, 0, random_keep(c, n_keep, cycle, missing=missing))
            missing = [206 - n for n in n_keep]
            positions = native.seq_positions(c.ctx, 0)
            assert positions.size == 206 and positions[-1] == pos - 1 and (np.diff(positions) > 0).all()
            if resize:
                native.resize(c.ctx, 206)
                assert native.memory_bytes(c.ctx) < 0.6 * size
                native.resize(c.ctx, 256)
            assert native.n_cells(c.ctx) == 256
            assert c.decode(random_tokens(50, cycle), pos) == 0
            pos += 50
            assert native.seq_positions(c.ctx, 0)[206:].tolist() == list(range(pos - 50, pos))
            rss.append(psutil.Process().memory_info().rss)
        assert native.memory_bytes(c.ctx) == size or resize
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


@pytest.mark.parametrize("unified, n_keep", [(False, N_KEEP), (True, N_KEEP), (True, UNEVEN)])
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
            assert not remove(c, seq_id, 20) and remove(c, seq_id, N_PROMPT)
        assert_same_logits(*logits)
        assert_same_cells(cells_of(c, 1)[0], before)
        assert remove(c, 0) and not remove(c, 1, 20) and remove(c, 1)


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("n_keep", [N_KEEP, UNEVEN])
def test_shift_of_a_gathered_sequence(tiny_model, flash_attn, n_keep):
    """All of it or nothing; attention sees only distances, so the logits stay."""
    with Context(tiny_model(Spec()), flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, n_keep))
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
        everything = whole_state(c)
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
        assert load_whole(fresh, everything) == len(everything)
        assert not remove(fresh, 0, 20) and remove(fresh, 1, 20)
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
        for offset, value in ((12, 2**31), (12, 2**32 - 1), (16, 2**31), (16, 2), (28, 2), (32, 20), (36, 2**31)):
            broken = bytearray(state)
            struct.pack_into("<I", broken, offset, value)
            if broken != state and (offset < 32 or n_keep == UNEVEN):
                assert load(c, bytes(broken)) == 0
        assert native.seq_positions(c.ctx, 0).size == 0
        for context in (c, fresh):
            assert context.decode(random_tokens(256, 3), 0) == 0
        assert c.logits.tobytes() == fresh.logits.tobytes()
        assert load(c, state) == len(state) and c.state() == state


@pytest.mark.parametrize("flash_attn", [False, True])
def test_save_and_load_uneven_layers(tiny_model, flash_attn):
    """Into the same context, into an empty one and as a whole; without the first cells it is refused."""
    options, path = dict(n_seq_max=2, kv_unified=True, flash_attn=flash_attn), tiny_model(Spec())
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
            assert native.seq_bytes(context.ctx, seq_id) == sum(x.size for x in parse(state, 2)[0].data)
            assert not remove(context, seq_id, 20)
            assert context.decode(PROBE, N_PROMPT, seq_id) == 0
            assert_same_logits(context.logits, expected)
        before = fresh.state(1)
        assert load(fresh, state, 0) == 0 and fresh.state(1) == before and native.seq_positions(fresh.ctx, 0).size == 0
        assert load_whole(fresh, everything) == len(everything)
        assert not remove(fresh, 0, 20) and remove(fresh, 1, 20)
        assert fresh.decode(PROBE, N_PROMPT) == 0
        assert_same_logits(fresh.logits, expected)


def test_save_and_load_uneven_layers_that_lost_cells(tiny_model):
    """A shift to negative positions drops the first cells."""
    path = tiny_model(Spec())
    with Context(path) as c, Context(path) as fresh:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, UNEVEN))
        llama_cpp.llama_memory_seq_add(c.memory, 0, -1, -1, -20)
        assert c.decode(PROBE, N_PROMPT - 20) == 0
        assert native.seq_positions(c.ctx, 0).size < max(UNEVEN) + len(PROBE)
        assert load(fresh, c.state()) == len(c.state())
        for context in (c, fresh):
            assert context.decode(PROBE, N_PROMPT - 20 + len(PROBE)) == 0
        assert_same_logits(fresh.logits, c.logits)


def test_uneven_gathers_that_are_refused(tiny_model):
    """As copies, in separate caches, where another sequence is in the way, and of cells that a layer lacks."""
    path = tiny_model(Spec())
    for unified, src, dst in ((False, 0, 0), (True, 0, 1), (True, 2, 2)):
        with Context(path, n_seq_max=3, kv_unified=unified) as c:
            for seq_id in (0, 2):
                assert c.decode(PROMPT, 0, seq_id) == 0
            before = [c.state(seq_id) for seq_id in range(3)]
            with pytest.raises(DapqError):
                native.seq_gather(c.ctx, src, dst, random_keep(c, UNEVEN, seq_id=src))
            assert [c.state(seq_id) for seq_id in range(3)] == before
    with Context(path, n_seq_max=2, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, UNEVEN))
        before = c.state()
        for cells in ([11, 15], [0, 19]):
            for dst in (0, 1):
                with pytest.raises(DapqError):
                    native.seq_gather(c.ctx, 0, dst, [np.tile(cells, (2, 1))] * 3)
        assert c.state() == before
        native.seq_gather(c.ctx, 0, 1, [np.tile([12, 15], (2, 1))] * 3)
        assert c.state() == before
        native.seq_gather(c.ctx, 0, 0, [np.tile([12, 15], (2, 1))] * 3)


@pytest.mark.parametrize("flash_attn", [False, True])
def test_uneven_layers_next_to_another_sequence(tiny_model, flash_attn):
    """What happens to the other one does not bring back the cells that the layers lack."""
    spec = Spec()
    reference = Reference(spec, PROMPT)
    with Context(tiny_model(spec), n_seq_max=3, kv_unified=True, flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        keep = random_keep(c, UNEVEN)
        native.seq_gather(c.ctx, 0, 0, keep)
        reference.gather(keep)
        before = c.state()
        assert c.decode(PROMPT[::-1], 0, seq_id=1) == 0
        native.seq_gather(c.ctx, 1, 1, random_keep(c, N_KEEP, seq_id=1))
        native.seq_gather(c.ctx, 1, 2, random_keep(c, 10, seq_id=1))
        assert c.state() == before
        assert remove(c, 1) and remove(c, 2)
        assert c.state() == before
        reference.decode(PROBE, N_PROMPT)
        assert c.decode(PROBE, N_PROMPT) == 0
        assert_same_logits(c.logits, reference.logits, 0.02)


@pytest.mark.parametrize("how", ["seq_rm", "seq_keep", "clear", "gather"])
def test_all_cells_are_used_again_after_uneven_layers(tiny_model, how):
    path, tokens = tiny_model(Spec()), random_tokens(256, 10)
    with Context(path, n_ctx=256, n_seq_max=2, kv_unified=True) as c, Context(path, n_ctx=256) as fresh:
        assert c.decode(tokens, 0) == fresh.decode(tokens, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, UNEVEN))
        assert c.decode(random_tokens(237, 11), 256) == 1
        if how == "gather":
            native.seq_gather(c.ctx, 0, 0, random_keep(c, 5, missing=[0, 12, 7]))
            assert c.decode(random_tokens(252, 11), 256) == 1
            assert c.decode(random_tokens(251, 11), 256) == 0
            return
        if how == "seq_rm":
            assert remove(c, 0)
        elif how == "seq_keep":
            llama_cpp.llama_memory_seq_keep(c.memory, 1)
        else:
            llama_cpp.llama_memory_clear(c.memory, False)
        assert c.decode(tokens, 0) == 0
        assert c.logits.tobytes() == fresh.logits.tobytes()


def test_pending_copies_and_shifts_come_first(tiny_model):
    with Context(tiny_model(Spec()), n_seq_max=2) as c, Context(tiny_model(Spec()), n_seq_max=2) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
            llama_cpp.llama_memory_seq_cp(context.memory, 0, 1, -1, -1)
            llama_cpp.llama_memory_seq_add(context.memory, 1, -1, -1, 50)
        native.seq_gather(c.ctx, 1, 1, keep_all(c))
        llama_cpp.llama_memory_seq_add(c.memory, 1, -1, -1, 50)
        native.resize(c.ctx, 100)
        llama_cpp.llama_memory_seq_add(stock.memory, 1, -1, -1, 50)
        for context in (c, stock):
            assert context.decode(PROBE, N_PROMPT + 100, seq_id=1) == 0
        assert_same_logits(c.logits, stock.logits)


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
            assert native.gather_heads(c.ctx) == {}
            with pytest.raises(UnsupportedModelError):
                native.seq_gather(c.ctx, 0, 0, [np.tile(np.arange(10), (2, 1))] * 3)
            with pytest.raises(UnsupportedModelError):
                native.seq_skip(c.ctx, 0, 5)
            if path != tiny_model(specs[0]):
                with pytest.raises(UnsupportedModelError):
                    native.n_cells(c.ctx)
                with pytest.raises(UnsupportedModelError):
                    native.resize(c.ctx, 100)
            assert c.state() == before and native.memory_bytes(c.ctx) > 0


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


def test_shared_gathered_cells_are_not_shifted(tiny_model):
    """It would shift them for the other sequence, too."""
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, N_KEEP))
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        before = c.state(0), c.state(1)
        llama_cpp.llama_memory_seq_add(c.memory, 0, -1, -1, 10)
        assert (c.state(0), c.state(1)) == before


# of a row of K or V in a layer of Spec()
ROW = 2 * 64 * 2


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("name, unified", [("even", False), ("even", True), ("uneven", True), ("mixed", True)])
def test_resize_after_a_gather(tiny_model, arch, flash_attn, name, unified):
    """Down to what is used and up again: only the memory changes."""
    spec, options = ARCHS[arch], dict(n_seq_max=2, kv_unified=unified, flash_attn=flash_attn)
    n_keep, pos = steps(spec, name)[0], N_PROMPT + len(PROBE)
    with Context(tiny_model(spec), **options) as c, Context(tiny_model(spec), **options) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
            native.seq_gather(context.ctx, 0, 0, random_keep(context, n_keep))
            assert context.decode(PROMPT[:10], 0, seq_id=1) == 0
            for i, token in enumerate(PROBE):
                assert context.decode([token], N_PROMPT + i) == 0
        before = c.state(0), c.state(1), c.logits.tobytes()
        n_cells, size = native.n_cells(c.ctx), native.memory_bytes(c.ctx)
        n_used = 20 + len(PROBE) + (10 if unified else 0)
        assert n_cells == (512 if unified else 256)
        for n in (n_used - 1, 1, 0, -1, -(2**31)):
            with pytest.raises(DapqError):
                native.resize(c.ctx, n)
        assert (native.n_cells(c.ctx), native.memory_bytes(c.ctx)) == (n_cells, size)
        row = spec.n_head_kv * spec.head_dim * 2
        missing = [] if name == "even" else [max(n_keep) - n for n in n_keep]
        for n in (n_used + 3, n_used):
            native.resize(c.ctx, n)
            freed = (n_cells - n) * (1 if unified else 2) * len(spec.full_layers) * 2 * row
            # the first tensor cannot leave out its first cells, and a transposed V has no rows
            least = freed + row * (sum(missing[1:]) + flash_attn * sum(missing))
            assert native.n_cells(c.ctx) == n
            assert least <= size - native.memory_bytes(c.ctx) <= least + row * sum(missing[:1])
            assert (c.state(0), c.state(1), c.logits.tobytes()) == before
        assert c.decode(PROBE[:1], pos) == 1
        native.resize(c.ctx, n_used + 50)
        assert (c.state(0), c.state(1)) == before[:2]
        for i, token in enumerate(random_tokens(50, 12)):
            for context in (c, stock):
                assert context.decode([token], pos + i) == 0
            assert_same_logits(c.logits, stock.logits)
        assert c.decode(PROBE[:1], pos + 50) == 1


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
def test_resize_of_an_empty_context(tiny_model, arch, flash_attn):
    """Up to more cells than at first, and after layers were uneven."""
    path, tokens = tiny_model(ARCHS[arch]), random_tokens(300, 13)
    options = dict(flash_attn=flash_attn, n_ubatch=64)
    with Context(path, n_ctx=512, **options) as stock, Context(path, n_ctx=512, **options) as c:
        assert stock.decode(tokens, 0) == 0
        native.resize(c.ctx, 100)
        assert c.decode(tokens[:100], 0) == 0 and c.decode(tokens[100:], 100) == 1
        native.seq_gather(c.ctx, 0, 0, random_keep(c, steps(ARCHS[arch], "uneven")[0]))
        native.resize(c.ctx, 50)
        assert remove(c, 0)
        native.resize(c.ctx, 300)
        assert c.decode(tokens, 0) == 0 and c.decode(tokens[:1], 300) == 1
        assert_same_logits(c.logits, stock.logits)


def test_resize_beyond_the_memory(tiny_model):
    with Context(tiny_model(Spec())) as c:
        assert c.decode(PROMPT, 0) == 0
        before, size = c.state(), native.memory_bytes(c.ctx)
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (4 << 30), limits[1]))
        try:
            for n_cells in (2**31 - 1, 2**28):
                with pytest.raises(DapqError, match="not enough memory"):
                    native.resize(c.ctx, n_cells)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        assert (c.state(), native.n_cells(c.ctx), native.memory_bytes(c.ctx)) == (before, 512, size)
        assert c.decode(PROBE, N_PROMPT) == 0


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
