"""Random calls, --fuzz-calls of them: each is refused and changes nothing, or does to the bytes what it says."""

from collections import Counter

import llama_cpp
import numpy as np
import pytest
from helpers.context import Context
from helpers.gathered import Cells, assert_same_cells, assert_same_logits, floats, load, parse, stored
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge.cells import pad
from dapq_edge.errors import DapqError
from dapq_edge.llamacpp import native
from dapq_edge.llamacpp.log import captured_log

SPEC = Spec(n_head=2, n_head_kv=2, head_dim=32)
N_CTX, N_SEQ = 512, 3

SEQ_IDS = [-(2**31), -1, N_SEQ, 255, 256, 2**31 - 1]
NUMBERS = [-(2**31), -1, 0, 1, 2**31 - 1]


class Fuzzer:
    def __init__(self, c: Context, unified: bool, cache_type: str, seed: int) -> None:
        self.c, self.unified, self.cache_type, self.rng = c, unified, cache_type, np.random.default_rng(seed)

    def cells(self, seq_id: int) -> Cells:
        caches = parse(self.c.state(seq_id), SPEC.n_head_kv)
        return caches[0] if caches else Cells(None, np.arange(0), [np.zeros((0, 1, 1), np.uint8)] * 2 * SPEC.n_layer)

    def snapshot(self) -> tuple:
        c = self.c
        return [c.state(seq_id) for seq_id in range(N_SEQ)], native.n_cells(c.ctx), native.memory_bytes(c.ctx)

    def seq_id(self, wrong: float = 0.05) -> int:
        return int(self.rng.choice(SEQ_IDS)) if self.rng.random() < wrong else int(self.rng.integers(N_SEQ))

    def number(self, low: int, high: int) -> int:
        return int(self.rng.choice(NUMBERS)) if self.rng.random() < 0.1 else int(self.rng.integers(low, high))

    def subset(self, low: int, high: int, size: int) -> np.ndarray:
        """Mostly valid: strictly ascending in [low, high)."""
        rng = self.rng
        cells = np.sort(rng.choice(np.arange(low, max(high, low + size)), size, replace=False))
        if cells.size and rng.random() < 0.1:
            cells[rng.integers(cells.size)] = rng.choice([*NUMBERS, *cells, high])
        return cells if rng.random() < 0.95 else rng.permutation(cells)

    def call(self) -> str:
        """One random call; returns its name, and the error that it raised."""
        call = self.rng.choice(list(CALLS), p=list(CALLS.values()))
        name, before = call.__name__, self.snapshot()
        try:
            changed = call(self)
        except DapqError as error:
            changed, name = [], f"{name} {type(error).__name__}"
        after = self.snapshot()
        for seq_id in range(N_SEQ):
            assert seq_id in changed or after[0][seq_id] == before[0][seq_id], (name, seq_id)
        assert after[1:] == before[1:] or "size" in changed, name
        return name

    def decode(self) -> list:
        seq_id, tokens = int(self.rng.integers(N_SEQ)), random_tokens(int(self.rng.integers(1, 80)), 1)
        before = self.cells(seq_id)
        pos = int(before.positions[-1]) + 1 if before.positions.size else 0
        if self.c.decode(tokens, pos, seq_id) != 0:
            return []
        after = self.cells(seq_id)
        assert after.positions.tolist() == [*before.positions, *range(pos, pos + len(tokens))]
        for new, old in zip(after.data, before.data, strict=True):
            assert len(new) == len(old) + len(tokens)
            assert new[: len(old)].tobytes() == old.tobytes()
        return [seq_id]

    def remove(self) -> list:
        """Some cells, or all that are not gathered, or all of them."""
        seq_id = self.seq_id()
        if self.rng.random() < 0.3 and 0 <= seq_id < N_SEQ:
            assert llama_cpp.llama_memory_seq_rm(self.c.memory, seq_id, -1, -1)
            return [seq_id]
        before = self.cells(seq_id % N_SEQ)
        kept = self.rng.random(before.positions.size) < self.rng.random()
        if before.last_gathered is not None and self.rng.random() < 0.9:
            kept |= before.positions <= before.last_gathered
        positions = before.positions[~kept]
        if positions.size and self.rng.random() < 0.1:
            positions[self.rng.integers(positions.size)] = self.rng.choice(NUMBERS)
        assert native.seq_remove(self.c.ctx, seq_id, positions) == positions.size
        kept, after = ~np.isin(before.positions, positions), self.cells(seq_id)
        assert (after.positions == before.positions[kept]).all()
        for new, old in zip(after.data, before.data, strict=True):
            assert new.tobytes() == old[kept[kept.size - len(old) :]].tobytes()
        return [seq_id]

    def gather(self) -> list:
        rng, src = self.rng, self.seq_id()
        dst = src if rng.random() < 0.7 else self.seq_id()
        before = self.cells(src % N_SEQ)
        n, heads = before.positions.size, SPEC.n_layer * [SPEC.n_head_kv]
        first = [n - len(k) for k in before.data[: SPEC.n_layer]]
        counts = [int(rng.integers(1, max(2, n - i + 1))) for i in first]
        if rng.random() < 0.5:
            counts = SPEC.n_layer * [min(counts)]
        keep = [
            np.stack([self.subset(i if rng.random() < 0.99 else 0, n, count) for _ in range(n_head)])
            for i, count, n_head in zip(first, counts, heads, strict=True)
        ]
        if rng.random() < 0.03:
            keep = keep[: rng.integers(SPEC.n_layer)]
        native.seq_gather(self.c.ctx, src, dst, keep)
        after = self.cells(dst)
        assert after.positions.size == max(counts)
        assert after.last_gathered == after.positions[-1] == before.positions[-1]
        assert (np.diff(after.positions) > 0).all()
        for new, old, cells, i in zip(after.data, before.data, keep * 2, first * 2, strict=True):
            assert (new == np.take_along_axis(old, (cells - i).T[..., None], axis=0)).all()
        return [dst]

    def probe(self) -> list:
        tokens = random_tokens(int(self.rng.integers(0, 20)), 2)
        if tokens and self.rng.random() < 0.1:
            tokens[0] = int(self.rng.choice([*NUMBERS[:2], 320, 2**31 - 1]))
        seq_id, pos = self.seq_id(), self.number(0, 400)
        if 0 <= seq_id < N_SEQ and self.rng.random() < 0.8 and self.cells(seq_id).positions.size:
            pos = int(self.cells(seq_id).positions[-1]) + 1
        attention = native.probe(self.c.ctx, seq_id, tokens, pos)
        assert (attention >= 0).all()
        assert attention.sum(axis=1).max(initial=0) < 1.001
        return []

    def limit(self) -> list:
        """Some tokens up to a layer, which are removed again."""
        c, seq_id = self.c, int(self.rng.integers(N_SEQ))
        n_layer, tokens = self.number(1, SPEC.n_layer + 2), random_tokens(int(self.rng.integers(1, 40)), 4)
        before = self.cells(seq_id)
        pos = int(before.positions[-1]) + 1 if before.positions.size else 0
        native.set_n_layer_eval(c.ctx, n_layer)
        try:
            if c.decode(tokens, pos, seq_id, logits=False) != 0:
                return []
            native.probe(c.ctx, seq_id, tokens[:5], pos + len(tokens))
        finally:
            native.set_n_layer_eval(c.ctx, 0)
            is_refused = c.decode(tokens, pos + len(tokens), seq_id) == -1
            assert llama_cpp.llama_memory_seq_rm(c.memory, seq_id, pos, -1)
        assert is_refused == (0 < n_layer < SPEC.n_layer)
        return []

    def resize(self) -> list:
        used = max(self.cells(seq_id).positions.size for seq_id in range(N_SEQ))
        n = min(self.number(max(1, used - 20), max(N_CTX, used) + 50), 5000)
        native.resize(self.c.ctx, n)
        assert native.n_cells(self.c.ctx) == pad(n)
        return ["size"]

    def share(self) -> list:
        src, dst = (int(x) for x in self.rng.choice(N_SEQ, 2, replace=False))
        if self.cells(dst).positions.size:
            return []
        llama_cpp.llama_memory_seq_cp(self.c.memory, src, dst, -1, -1)
        if not self.unified:
            native.resize(self.c.ctx, native.n_cells(self.c.ctx))  # only now the other cache gets its copy
        assert_same_cells(self.cells(dst), self.cells(src))
        return [dst]

    def reload(self) -> list:
        """The state of a sequence into any sequence; if it does not fit, then that one is empty."""
        src, dst = (int(x) for x in self.rng.integers(N_SEQ, size=2))
        before = self.cells(src)
        if before.positions.size == 0:
            return []
        if load(self.c, self.c.state(src), dst):
            assert_same_cells(self.cells(dst), before)
        else:
            assert self.cells(dst).positions.size == 0
        return [dst]

    def read(self) -> list:
        # rare calls, of which hundreds have to hold a wrong one
        seq_id, c = self.seq_id(wrong=0.5), self.c
        positions = native.seq_positions(c.ctx, seq_id)
        cells = self.cells(seq_id)
        assert positions.tolist() == cells.positions.tolist()
        assert native.gather_heads(c.ctx) == dict.fromkeys(range(SPEC.n_layer), SPEC.n_head_kv)
        return []

    def values(self) -> list:
        """Those of one layer, and random ones in their place."""
        c, seq_id, layer = self.c, self.seq_id(), self.number(0, SPEC.n_layer)
        before = self.cells(seq_id % N_SEQ)
        values = native.seq_values(c.ctx, seq_id, layer)
        i = SPEC.n_layer + layer
        if values.shape[1]:
            assert (values == floats(before.data[i], self.cache_type)).all()
        new = self.rng.standard_normal(values.shape).astype(np.float32)
        native.set_seq_values(c.ctx, seq_id, layer, new)
        after = self.cells(seq_id)
        if values.shape[1]:
            before.data[i] = stored(new, self.cache_type)
        assert_same_cells(after, before)
        return [seq_id]

    def raw(self) -> list:
        """The C functions with null pointers, negative sizes and wrong ids."""
        rng, c = self.rng, self.c
        data = native._int32(rng.integers(-5, 300, 64))
        ints = native._pointer(data, native._INT32_P)
        floats = native._pointer(np.zeros(64, np.float32), native._FLOAT_P)
        each = native._PROBE_CALLBACK(lambda *_: None)
        seq_id, bad_id, n = int(rng.integers(N_SEQ)), int(rng.choice(SEQ_IDS)), int(rng.integers(-(2**31), 0))
        n_layer, wrong = SPEC.n_layer, int(rng.choice([*NUMBERS, 2, 4]))
        memory, far = c.memory, int(rng.choice([-(2**62), -1, 2**62, 2**32]))
        values = str(rng.choice(["llama_memory_seq_v_get", "llama_memory_seq_v_set"]))
        calls = [
            ("llama_memory_seq_pos_get", None, seq_id, ints, 1),
            ("llama_memory_seq_pos_get", memory, bad_id, ints, 1),
            ("llama_memory_seq_pos_get", memory, seq_id, None, 1),
            ("llama_memory_seq_pos_get", memory, seq_id, ints, n),
            ("llama_memory_seq_pos_rm", None, seq_id, ints, 1),
            ("llama_memory_seq_pos_rm", memory, bad_id, ints, 1),
            ("llama_memory_seq_pos_rm", memory, seq_id, None, 1),
            ("llama_memory_seq_pos_rm", memory, seq_id, ints, n),
            ("llama_memory_seq_gather", None, seq_id, seq_id, ints, n_layer, ints, 64),
            ("llama_memory_seq_gather", c.ctx, bad_id, seq_id, ints, n_layer, ints, 64),
            ("llama_memory_seq_gather", c.ctx, seq_id, bad_id, ints, n_layer, ints, 64),
            ("llama_memory_seq_gather", c.ctx, seq_id, seq_id, None, n_layer, ints, 64),
            ("llama_memory_seq_gather", c.ctx, seq_id, seq_id, ints, n_layer, None, 64),
            ("llama_memory_seq_gather", c.ctx, seq_id, seq_id, ints, wrong, ints, 64),
            ("llama_memory_seq_gather", c.ctx, seq_id, seq_id, ints, n_layer, ints, far),
            ("llama_memory_n_cells", None),
            ("llama_memory_size", None),
            ("llama_memory_resize", None, 100),
            ("llama_memory_resize", c.ctx, n),
            ("llama_memory_layer", c.ctx, 0, None, ints),
            ("llama_memory_layer", c.ctx, 0, ints, None),
            ("llama_set_n_layer_eval", None, 1),
            ("llama_set_n_layer_eval", c.ctx, int(rng.choice([n, n_layer + 1, 2**31 - 1]))),
            ("llama_attn_probe", None, seq_id, ints, 1, 0, 1, each, None),
            ("llama_attn_probe", c.ctx, bad_id, ints, 1, 0, 1, each, None),
            ("llama_attn_probe", c.ctx, seq_id, None, 1, 0, 1, each, None),
            ("llama_attn_probe", c.ctx, seq_id, ints, n, 0, 1, each, None),
            ("llama_attn_probe", c.ctx, seq_id, ints, 1, n, 1, each, None),
            ("llama_attn_probe", c.ctx, seq_id, ints, 1, 0, int(rng.choice([-1, 3])), each, None),
            ("llama_attn_probe", c.ctx, seq_id, ints, 1, 0, 1, native._PROBE_CALLBACK(), None),
            ("llama_memory_seq_v_size", None, seq_id, 0, ints, ints),
            ("llama_memory_seq_v_size", c.ctx, bad_id, 0, ints, ints),
            ("llama_memory_seq_v_size", c.ctx, seq_id, n, ints, ints),
            ("llama_memory_seq_v_size", c.ctx, seq_id, 0, None, ints),
            ("llama_memory_seq_v_size", c.ctx, seq_id, 0, ints, None),
            (values, None, seq_id, 0, floats, 64),
            (values, c.ctx, bad_id, 0, floats, 64),
            (values, c.ctx, seq_id, int(rng.choice([n, n_layer, 2**31 - 1])), floats, 64),
            (values, c.ctx, seq_id, 0, None, 0),
            (values, c.ctx, seq_id, 0, floats, far),
            (values, c.ctx, seq_id, 0, floats, 63),
        ]
        name, *args = calls[rng.integers(len(calls))]
        assert native._function(name)(*args) < 0, (name, args)
        layer, nowhere = native._function("llama_memory_layer"), ((None, 0), (c.ctx, -1), (c.ctx, n), (c.ctx, n_layer))
        assert [layer(ctx, il, ints, ints) for ctx, il in nowhere] == [0] * 4
        return []


CALLS = {  # and how often
    Fuzzer.decode: 0.24,
    Fuzzer.limit: 0.04,
    Fuzzer.remove: 0.11,
    Fuzzer.gather: 0.21,
    Fuzzer.probe: 0.1,
    Fuzzer.values: 0.05,
    Fuzzer.resize: 0.08,
    Fuzzer.share: 0.02,
    Fuzzer.reload: 0.03,
    Fuzzer.read: 0.05,
    Fuzzer.raw: 0.07,
}


@pytest.mark.parametrize(
    ("unified", "flash_attn", "cache_type"), [(True, True, "q8_0"), (True, False, "f16"), (False, True, "f16")]
)
def test_random_calls(tiny_model, pytestconfig, unified, flash_attn, cache_type):
    options = {
        "n_ctx": N_CTX * (1 if unified else N_SEQ),
        "n_seq_max": N_SEQ,
        "kv_unified": unified,
        "flash_attn": flash_attn,
    }
    options |= {"type_k": cache_type, "type_v": cache_type}
    path, prompt, n_calls = tiny_model(SPEC), random_tokens(N_CTX, 3), pytestconfig.getoption("fuzz_calls")
    ended = Counter()
    with Context(path, **options) as c, Context(path, **options) as fresh, captured_log():
        llama_cpp.llama_set_n_threads(c.ctx, 1, 1)
        fuzzer = Fuzzer(c, unified, cache_type, seed=2)
        for _ in range(n_calls):
            ended[fuzzer.call()] += 1
        for name in ("decode", "limit", "remove", "gather", "probe", "values", "resize", "read", "raw"):
            assert ended[name] > n_calls / 100, ended
        for name in ("remove", "gather", "probe", "values", "resize", "read"):
            assert ended[f"{name} DapqError"] > 0, ended
        llama_cpp.llama_memory_clear(c.memory, True)
        native.resize(c.ctx, N_CTX)
        assert (native.n_cells(c.ctx), native.memory_bytes(c.ctx)) == (N_CTX, native.memory_bytes(fresh.ctx))
        for context in (c, fresh):
            assert context.decode(prompt, 0) == 0
        assert c.state(0) == fresh.state(0)
        assert_same_logits(c.logits, fresh.logits)
