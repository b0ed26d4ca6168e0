"""V of a sequence, read and replaced: against the bytes of its state, and what the model makes of it."""

from unittest import mock

import llama_cpp
import numpy as np
import pytest
from helpers import tiny
from helpers.context import Context
from helpers.gathered import (
    ARCHS,
    CACHES,
    UNEVEN,
    WINDOW_SPEC,
    Reference,
    assert_same_cells,
    assert_same_logits,
    cells_of,
    floats,
    random_keep,
    steps,
    stored,
)
from helpers.tiny import Spec
from helpers.tokens import N_PROMPT, PROBE, PROMPT

from dapq_edge.errors import DapqError, UnsupportedModelError
from dapq_edge.llamacpp import native


def random_values(c: Context, layer: int, seed: int = 0, seq_id: int = 0) -> np.ndarray:
    shape = native.seq_values(c.ctx, seq_id, layer).shape
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def read_in_parts(c: Context) -> None:
    """Two sequences whose cells alternate; one of them has holes."""
    for first in (0, 25, 50):
        assert c.decode(PROMPT[first : first + 25], first) == 0
        assert c.decode(PROMPT[::-1][first : first + 20], first // 25 * 20, seq_id=1) == 0
    native.seq_remove(c.ctx, 0, [3, 4, 30])


@pytest.mark.parametrize(
    ("gathered", "unified"), [(None, False), (None, True), (20, False), (20, True), (UNEVEN, True)]
)
@pytest.mark.parametrize("cache", CACHES)
def test_get_and_set_the_bytes(tiny_model, cache, gathered, unified):
    """Those of V in one layer, and no others, also where layers have fewer cells."""
    spec, (type_k, type_v, flash_attn) = Spec(), cache
    options = {"n_seq_max": 2, "kv_unified": unified, "type_k": type_k, "type_v": type_v, "flash_attn": flash_attn}
    with Context(tiny_model(spec), n_ctx=1024, **options) as c:
        read_in_parts(c)
        if gathered:
            native.seq_gather(c.ctx, 0, 0, random_keep(c, gathered))
            assert c.decode(PROBE, N_PROMPT) == 0
        (expected,), other, logits = cells_of(c, 0), c.state(1), c.logits.tobytes()
        for layer in range(spec.n_layer):
            values = native.seq_values(c.ctx, 0, layer)
            np.testing.assert_array_equal(values, floats(expected.data[spec.n_layer + layer], type_v))
            new = random_values(c, layer, layer)
            expected.data[spec.n_layer + layer] = stored(new, type_v)
            native.set_seq_values(c.ctx, 0, layer, new)
            assert_same_cells(cells_of(c, 0)[0], expected)
        assert (c.state(1), c.logits.tobytes()) == (other, logits)


@pytest.mark.parametrize("flash_attn", [False, True])
def test_the_full_layers_of_a_model_with_windows(tiny_model, flash_attn):
    with Context(tiny_model(WINDOW_SPEC), flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        full, window = cells_of(c, 0)
        for i, layer in enumerate(WINDOW_SPEC.full_layers):
            np.testing.assert_array_equal(native.seq_values(c.ctx, 0, layer), floats(full.data[2 + i], "f16"))
            new = random_values(c, layer)
            full.data[2 + i] = stored(new, "f16")
            native.set_seq_values(c.ctx, 0, layer, new)
        for actual, expected in zip(cells_of(c, 0), (full, window), strict=True):
            assert_same_cells(actual, expected)
        for layer in (0, 2):
            with pytest.raises(DapqError, match=f"copy the values of layer {layer}"):
                native.seq_values(c.ctx, 0, layer)


@pytest.mark.parametrize("name", ["lfm2", "qwen3next", "qwen35, text", "gemma2"])
def test_families(family_model, name):
    """The recurrent states and the windows stay, and what is put where it was changes nothing."""
    path = family_model(name)
    with Context(path) as c, Context(path) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
        before = c.state()
        for layer, n_head_kv in native.gather_heads(c.ctx).items():
            values = native.seq_values(c.ctx, 0, layer)
            assert values.shape[:2] == (n_head_kv, N_PROMPT)
            native.set_seq_values(c.ctx, 0, layer, -values)
            assert c.state() != before
            np.testing.assert_array_equal(native.seq_values(c.ctx, 0, layer), -values)
            native.set_seq_values(c.ctx, 0, layer, values)
            assert c.state() == before
        for context in (c, stock):
            assert context.decode(PROBE, N_PROMPT) == 0
        assert c.logits.tobytes() == stock.logits.tobytes()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("name", ["even", "uneven"])
def test_the_model_reads_what_was_put(tiny_model, arch, flash_attn, name):
    """In the last layer, against the numpy transformer: nothing behind it depends on what the old tokens read."""
    spec, reference = ARCHS[arch], Reference(ARCHS[arch], PROMPT)
    last = spec.full_layers[-1]
    with Context(tiny_model(spec), flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        keep = random_keep(c, steps(spec, name)[0])
        native.seq_gather(c.ctx, 0, 0, keep)
        reference.gather(keep)
        new, cells = 4 * random_values(c, last), reference.cells[-1]
        native.set_seq_values(c.ctx, 0, last, new)
        assert c.decode(PROBE, N_PROMPT) == 0
        reference.decode(PROBE, N_PROMPT)
        old, kinds, store = reference.logits, iter(range(2 * spec.n_layer)), tiny.store

        def put(x: np.ndarray, kind: str) -> np.ndarray:
            x = store(x, kind)
            if next(kinds) == 2 * last + 1:
                for head, tokens in enumerate(cells):
                    x[tokens, head] = new[head]
            return x

        with mock.patch.object(tiny, "store", put):
            expected = reference.logits
        assert_same_logits(c.logits, expected, 0.02)
        with pytest.raises(AssertionError):
            assert_same_logits(c.logits, old, 0.05)


def test_pending_copies_come_first(tiny_model):
    """In a cache of its own, a sequence gets its copy only when the memory is used."""
    with Context(tiny_model(Spec()), n_seq_max=2) as c:
        assert c.decode(PROMPT, 0) == 0
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        np.testing.assert_array_equal(native.seq_values(c.ctx, 1, 1), native.seq_values(c.ctx, 0, 1))
        llama_cpp.llama_memory_seq_rm(c.memory, 1, -1, -1)
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        new, before = random_values(c, 1), c.state(0)
        native.set_seq_values(c.ctx, 1, 1, new)
        assert c.state(0) == before
        np.testing.assert_array_equal(native.seq_values(c.ctx, 1, 1), new.astype(np.float16))


def test_invalid_arguments_change_nothing(tiny_model):
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        before, values = c.state(), native.seq_values(c.ctx, 0, 1)
        for seq_id, layer in ((-1, 1), (2, 1), (0, -1), (0, 3), (0, 2**31 - 1)):
            with pytest.raises(DapqError):
                native.seq_values(c.ctx, seq_id, layer)
            with pytest.raises(DapqError):
                native.set_seq_values(c.ctx, seq_id, layer, values)
        for wrong in (values[:1], values[:, 1:], values[..., :32], values[0], np.concatenate([values, values])):
            with pytest.raises(ValueError, match="have the shape"):
                native.set_seq_values(c.ctx, 0, 1, wrong)
        data = native._pointer(values, native._FLOAT_P)
        for name in ("llama_memory_seq_v_get", "llama_memory_seq_v_set"):
            call = native._function(name)
            assert call(None, 0, 1, data, values.size) == -2
            assert call(c.ctx, 0, 1, None, values.size) == -1
            for n in (values.size - 1, values.size + 1, 0, -1):
                assert call(c.ctx, 0, 1, data, n) == -1
        assert c.state() == before
        assert native.seq_values(c.ctx, 1, 1).shape == (2, 0, 64)
        native.set_seq_values(c.ctx, 1, 1, np.zeros((2, 0, 64)))
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        np.testing.assert_array_equal(native.seq_values(c.ctx, 1, 1), values)
        with pytest.raises(DapqError):
            native.set_seq_values(c.ctx, 1, 1, values)
        assert c.state() == before


def test_layers_that_were_not_evaluated(tiny_model):
    with Context(tiny_model(Spec())) as c:
        native.set_n_layer_eval(c.ctx, 2)
        assert c.decode(PROMPT, 0, logits=False) == 0
        native.set_n_layer_eval(c.ctx, 0)
        assert native.seq_values(c.ctx, 0, 1).shape == (2, N_PROMPT, 64)
        with pytest.raises(DapqError):
            native.seq_values(c.ctx, 0, 2)


def test_unsupported_models(tiny_model, recurrent_model):
    for path in (recurrent_model, tiny_model(Spec(arch="refact"))):
        with Context(path) as c:
            assert c.decode(PROMPT, 0) == 0
            before = c.state()
            with pytest.raises(UnsupportedModelError, match="values of this model"):
                native.seq_values(c.ctx, 0, 0)
            with pytest.raises(UnsupportedModelError, match="values of this model"):
                native.set_seq_values(c.ctx, 0, 0, np.zeros((2, N_PROMPT, 64)))
            assert c.state() == before
