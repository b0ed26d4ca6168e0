"""Gathered caches for the tests: their bytes in a state, keep lists, and the attention that they should give."""

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

import gguf
import llama_cpp
import numpy as np

from dapq_edge.llamacpp import native

from . import tiny
from .context import TYPES, Context
from .tiny import Spec, forward
from .tokens import N_PROMPT, PROBE

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
    n_layer: int = 0  # that all cells have data of, 0 for all


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
            has_marks, missing = count >> 31, ()
            if has_marks:
                version, n_layer = read("II")
                assert version == 2
                missing = read(f"{n_layer}I")
            count &= 2**31 - 1
            # position, number of sequences; x, y, token, gathered, layers; sequence
            cells = [read("iI" + ("iiiII" if has_marks else "") + "i") for _ in range(count)]
            positions = np.array([cell[0] for cell in cells])
            gathered = [cell[0] for cell in cells if has_marks and cell[5]]
            limits = [cell[6] for cell in cells if has_marks and cell[6]]
            transposed, n_layer = read("II")
            n_layer_data = max(limits) if len(limits) == count else n_layer
            data = []
            for i in range(2 * n_layer):
                first = missing[i % n_layer] if missing else 0
                # layers of the model: those of the cache, in models without windows
                first = count if i % n_layer >= n_layer_data else first
                if transposed and i >= n_layer:
                    _, size, n_embd = read("iII")
                    layer = rows(n_embd, count - first, size).transpose(1, 0, 2)
                    layer = layer.reshape(count - first, n_head_kv, n_embd // n_head_kv * size)
                else:
                    layer = rows(count - first, n_head_kv, read("iQ")[1] // n_head_kv)
                data.append(layer[np.argsort(positions[first:], kind="stable")])
            last_gathered = max(gathered, default=None)
            caches.append(Cells(last_gathered, np.sort(positions), data, min(limits, default=0)))
    assert offset == len(state)
    return caches


def cells_of(c: Context, seq_id: int, n_head_kv: int = 2) -> list[Cells]:
    return parse(c.state(seq_id), n_head_kv)


def floats(rows: np.ndarray, kind: str) -> np.ndarray:
    """The numbers of K or V of a layer, as `native.seq_values` gives them: float32 [KV heads, cells, head_dim]."""
    if kind == "f16":
        return rows.copy().view(np.float16).astype(np.float32).swapaxes(0, 1)
    return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind.upper()]).swapaxes(0, 1)


def stored(numbers: np.ndarray, kind: str) -> np.ndarray:
    """The bytes of numbers, float32 [KV heads, cells, head_dim]: uint8 [cells, KV heads, bytes]."""
    rows = np.ascontiguousarray(numbers.swapaxes(0, 1))
    if kind == "f16":
        return rows.astype(np.float16).view(np.uint8)
    return gguf.quants.quantize(rows, gguf.GGMLQuantizationType[kind.upper()])


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


# cells that each layer keeps, at first and later: the same number, or another one in each layer
STEPS = {"even": (20, 12), "uneven": (UNEVEN, [12, 14, 5]), "mixed": ([12, 20, 1], 7)}


def steps(spec: Spec, name: str) -> list[int | list[int]]:
    return [n if isinstance(n, int) else n[: len(spec.full_layers)] for n in STEPS[name]]


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


def keep_last(c: Context, n_keep: int) -> None:
    cells = np.arange(N_PROMPT - n_keep, N_PROMPT)
    native.seq_gather(c.ctx, 0, 0, [np.tile(cells, (n_head, 1)) for n_head in native.gather_heads(c.ctx).values()])
