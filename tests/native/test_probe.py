"""The probe against an independent computation of attention, and what it must leave alone."""

import llama_cpp
import numpy as np
import pytest
from helpers.context import Context
from helpers.tiny import N_VOCAB, Spec, forward
from helpers.tokens import HEADS, N_PROBE, N_PROMPT, PROBE, PROMPT, random_tokens

from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.errors import DapqError, NoFreeCellsError
from dapq_edge.llamacpp import native
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.llamacpp.native import ProbeType

# kernels of aarch64 that add up in f16: the product of a query and a key is rounded several times to 11 bits
ADDS_F16 = "FP16_VA = 1" in llama_cpp.llama_print_system_info().decode()

# the largest difference of an attention weight, relative to the largest: in the first layer only Q is rounded in
# another way than in the reference, in the layers after it the differences of what was stored add up
TOLERANCE = {
    "f16": (3e-3 if ADDS_F16 else 1e-3, 5e-3),
    "bf16": (5e-3, 2e-2),
    "q8_0": (1.5e-2, 6e-2),
    "q4_0": (1.5e-2, 0.35),
}


# the weights of a power of two of queries are also what the layer goes on with, unless V is quantized
PROBES = {"8": PROBE[:8], "all": PROBE}


def reference(spec: Spec, pos: int, type_k: str, type_v: str, probe: list[int] = PROBE) -> np.ndarray:
    """float32 [rows, queries, cells] as `native.probe` returns it; cells at pos and after it are hidden."""
    n_seen = min(pos, N_PROMPT)
    positions = [*range(n_seen), *range(pos, pos + len(probe))]
    attention, _ = forward(spec, PROMPT[:n_seen] + probe, positions, type_k, type_v)
    seen = attention[spec.full_layers][:, :, n_seen:, :n_seen]
    hidden = np.zeros((*seen.shape[:3], N_PROMPT - n_seen))
    return np.concatenate([seen, hidden], axis=-1).reshape(-1, len(probe), N_PROMPT)


def assert_close(actual: np.ndarray, expected: np.ndarray, cache_type: str = "f16", n_head: int = 4) -> None:
    assert actual.shape == expected.shape
    error = np.abs(actual - expected) / expected.max()
    first, rest = TOLERANCE[cache_type]
    assert error[:n_head].max() <= first
    assert error[n_head:].max() <= rest
    assert error.mean() <= first


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("cache_type", TOLERANCE)
@pytest.mark.parametrize("queries", PROBES)
def test_matches_numpy(tiny_model, heads, flash_attn, cache_type, queries):
    probe = PROBES[queries]
    n_head, n_head_kv = HEADS[heads]
    spec = Spec(n_head=n_head, n_head_kv=n_head_kv)
    type_v = cache_type if flash_attn or cache_type in ("f16", "bf16") else "f16"
    expected = reference(spec, N_PROMPT, cache_type, type_v, probe)
    with Context(tiny_model(spec), type_k=cache_type, type_v=type_v, flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        assert_close(native.probe(c.ctx, 0, probe, N_PROMPT, ProbeType.NONE), expected, cache_type)
        assert_close(native.probe(c.ctx, 0, probe, N_PROMPT, ProbeType.MEAN), expected.mean(axis=1), cache_type)
        assert_close(native.probe(c.ctx, 0, probe, N_PROMPT, ProbeType.MAX), expected.max(axis=1), cache_type)


@pytest.mark.parametrize("heads", HEADS)
def test_quantized_k_and_plain_v(tiny_model, heads):
    """With flash attention, where the layer goes on with the weights of the probe."""
    n_head, n_head_kv = HEADS[heads]
    spec, probe = Spec(n_head=n_head, n_head_kv=n_head_kv), PROBES["8"]
    with Context(tiny_model(spec), type_k="q8_0", type_v="f16", flash_attn=True) as c:
        assert c.decode(PROMPT, 0) == 0
        attention = native.probe(c.ctx, 0, probe, N_PROMPT, ProbeType.NONE)
        assert_close(attention, reference(spec, N_PROMPT, "q8_0", "f16", probe), "q8_0")


@pytest.mark.parametrize("arch", ["refact", "gemma2"])
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize("queries", PROBES)
def test_matches_numpy_with_alibi_or_soft_cap(tiny_model, arch, flash_attn, cache_type, queries):
    probe = PROBES[queries]
    spec = Spec(arch=arch, head_dim=32, n_layer=4)
    type_v = cache_type if flash_attn else "f16"
    with Context(tiny_model(spec), type_k=cache_type, type_v=type_v, flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        attention = native.probe(c.ctx, 0, probe, N_PROMPT, ProbeType.NONE)
        assert list(native.probe_heads(c.ctx)) == spec.full_layers
        assert_close(attention, reference(spec, N_PROMPT, cache_type, type_v, probe), cache_type)


@pytest.mark.parametrize("pos", [1, N_PROMPT - 32, N_PROMPT, N_PROMPT + 1, N_PROMPT + 300])
@pytest.mark.parametrize("flash_attn", [False, True])
def test_any_position(tiny_model, pos, flash_attn):
    """With a gap before the probe, and at positions that are stored already (these are hidden)."""
    spec = Spec()
    with Context(tiny_model(spec), flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        attention = native.probe(c.ctx, 0, PROBE, pos, ProbeType.NONE)
        assert_close(attention, reference(spec, pos, "f16", "f16"))


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 31, 32, 33, 127, 512])
def test_reductions_of_any_number_of_tokens(tiny_model, n_tokens):
    tokens = random_tokens(n_tokens, 3)
    with Context(tiny_model(Spec()), n_ctx=1024, n_threads=2) as c:
        assert c.decode(PROMPT, 0) == 0
        attention = native.probe(c.ctx, 0, tokens, N_PROMPT, ProbeType.NONE)
        for reduce, expected in ((ProbeType.MEAN, attention.mean(axis=1)), (ProbeType.MAX, attention.max(axis=1))):
            np.testing.assert_allclose(native.probe(c.ctx, 0, tokens, N_PROMPT, reduce), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "flash_attn"), [("llama", False), ("llama", True), ("gemma2", False)])
def test_queries_in_parts(tiny_model, arch, flash_attn):
    """512 queries of 16 heads to 3,072 cells are 96 MiB of weights: more than are computed at once."""
    path, tokens = tiny_model(Spec(arch=arch, n_head=16, head_dim=16, n_layer=2, n_ctx=4096)), random_tokens(512, 3)
    with Context(path, n_ctx=4096, n_threads=2, flash_attn=flash_attn) as c:
        assert c.decode(random_tokens(3000, 1), 0) == 0
        attention = native.probe(c.ctx, 0, tokens, 3000, ProbeType.NONE)
        # the second layer sees what flash attention made of the first one, or not
        few = native.probe(c.ctx, 0, tokens[:8], 3000, ProbeType.NONE)
        assert np.abs(few - attention[:, :8]).max() <= 2e-3 * few.max()
        assert attention[:, -1].sum(axis=1).max() < 1.001
        for reduce, expected in ((ProbeType.MEAN, attention.mean(axis=1)), (ProbeType.MAX, attention.max(axis=1))):
            np.testing.assert_allclose(native.probe(c.ctx, 0, tokens, 3000, reduce), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("offset", [-20, 0, 100])
def test_leaves_memory_and_logits_alone(tiny_model, arch, flash_attn, unified, offset):
    """Byte for byte, also where a probe has to write over hidden cells or cells that left the window."""
    path, prompt = tiny_model(Spec(arch=arch, n_layer=4)), random_tokens(600, 4)
    options = {"n_seq_max": 2, "kv_unified": unified, "flash_attn": flash_attn, "n_ctx": 2048, "n_ubatch": 32}
    with Context(path, **options) as c, Context(path, **options) as stock:
        for context in (c, stock):
            assert context.decode(prompt[:300], 0, seq_id=1) == 0
            assert context.decode(prompt, 0) == 0
        before = c.state(0), c.state(1), c.logits.tobytes()
        for _ in range(3):
            native.probe(c.ctx, 0, PROBE, len(prompt) + offset)
        assert (c.state(0), c.state(1), c.logits.tobytes()) == before
        for context in (c, stock):
            assert context.decode(PROBE, len(prompt)) == 0
        assert c.logits.tobytes() == stock.logits.tobytes()
        assert c.state(0) == stock.state(0)


@pytest.mark.parametrize("flash_attn", [False, True])
def test_shift_before_and_after(tiny_model, flash_attn):
    """A pending shift of positions is applied before a probe, and one after a probe computes without it."""
    path = tiny_model(Spec())
    with Context(path, flash_attn=flash_attn) as c, Context(path, flash_attn=flash_attn) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
        native.probe(c.ctx, 0, PROBE, N_PROMPT)
        for context in (c, stock):
            llama_cpp.llama_memory_seq_rm(context.memory, 0, 10, 20)
            llama_cpp.llama_memory_seq_add(context.memory, 0, 20, -1, -10)
        native.probe(c.ctx, 0, PROBE, N_PROMPT - 10)
        for context in (c, stock):
            llama_cpp.llama_memory_seq_add(context.memory, 0, 30, -1, 5)
            llama_cpp.llama_memory_seq_add(context.memory, 0, 35, -1, -5)
            assert context.decode(PROBE, N_PROMPT - 10) == 0
        assert c.logits.tobytes() == stock.logits.tobytes()


@pytest.mark.parametrize("pooling", ["NONE", "MEAN", "CLS", "LAST"])
def test_embeddings_context(tiny_model, pooling):
    """Without outputs there is nothing to pool: the probe must not try."""
    spec = Spec()
    with Context(tiny_model(spec), pooling=getattr(llama_cpp, f"LLAMA_POOLING_TYPE_{pooling}")) as c:
        assert c.decode(PROMPT, 0) == 0
        attention = native.probe(c.ctx, 0, PROBE, N_PROMPT, ProbeType.NONE)
        assert_close(attention, reference(spec, N_PROMPT, "f16", "f16"))
        assert c.decode(PROBE, N_PROMPT) == 0


def test_lost_window(tiny_model):
    """Far back in a model with sliding windows, the window's cells are gone: refused, not silently wrong."""
    with Context(tiny_model(Spec(arch="gemma2", n_layer=4)), n_ctx=1024, n_ubatch=32) as c:
        assert c.decode(random_tokens(600, 4), 0) == 0
        native.probe(c.ctx, 0, PROBE, 590)
        with pytest.raises(DapqError):
            native.probe(c.ctx, 0, PROBE, 50)


def test_full_context(tiny_model):
    """Without free cells a probe fails and changes nothing; over hidden cells it needs none."""
    with Context(tiny_model(Spec()), n_ctx=256) as c:
        prompt = random_tokens(250, 5)
        assert c.decode(prompt, 0) == 0
        before = c.state()
        with pytest.raises(NoFreeCellsError, match="raise n_ctx"):
            native.probe(c.ctx, 0, PROBE, 250)
        native.probe(c.ctx, 0, PROBE, 239)
        assert c.state() == before


def test_one_of_several_sequences(tiny_model):
    """Cells of other sequences are neither seen nor reported, in a unified cache and in separate ones."""
    spec = Spec()
    for unified in (False, True):
        with Context(tiny_model(spec), n_seq_max=3, kv_unified=unified, n_ctx=1024) as c:
            for seq_id in (0, 2):
                assert c.decode(random_tokens(40, 6 + seq_id), 0, seq_id) == 0
            assert c.decode(PROMPT, 0, seq_id=1) == 0
            attention = native.probe(c.ctx, 1, PROBE, N_PROMPT, ProbeType.NONE)
            assert_close(attention, reference(spec, N_PROMPT, "f16", "f16"))


def test_after_removal_in_the_middle(tiny_model):
    """The cells are reported in the order of their positions, also when new cells fill old holes."""
    spec = Spec()
    with Context(tiny_model(spec), n_ctx=256) as c:
        assert c.decode(PROMPT, 0) == 0
        assert native.seq_remove(c.ctx, 0, list(range(10, 60))) == 50
        assert c.decode(PROBE, N_PROMPT) == 0
        cells = native.seq_positions(c.ctx, 0)
        assert cells.tolist() == [*range(10), *range(60, N_PROMPT + N_PROBE)]
        attention = native.probe(c.ctx, 0, PROBE, N_PROMPT + N_PROBE)
        assert attention.shape == (12, cells.size)
        assert (attention > 0).all()


def test_invalid_arguments(tiny_model):
    with Context(tiny_model(Spec()), n_ubatch=64) as c:
        assert c.decode(PROMPT, 0) == 0
        before = c.state()
        for seq_id, tokens, pos in (
            (-1, PROBE, 80),
            (1, PROBE, 80),
            (0, [], 80),
            (0, [N_VOCAB], 80),
            (0, [-1], 80),
            (0, PROBE, -1),
            (0, PROBE, 2**31 - 3),
            (0, random_tokens(65, 1), 80),
        ):
            with pytest.raises(DapqError):
                native.probe(c.ctx, seq_id, tokens, pos)
        call = native._function("llama_attn_probe")
        layers = []
        each = native._PROBE_CALLBACK(lambda layer, _data, n_data, _: layers.append((layer, n_data)))
        tokens = native._pointer(native._int32(PROBE), native._INT32_P)
        assert call(None, 0, tokens, 1, 80, 1, each, None) == -1
        assert call(c.ctx, 0, None, 1, 80, 1, each, None) == -1
        assert call(c.ctx, 0, tokens, 1, 80, 1, native._PROBE_CALLBACK(), None) == -1
        assert call(c.ctx, 0, tokens, 1, 80, 3, each, None) == -1
        assert call(c.ctx, 0, tokens, 1, 80, -1, each, None) == -1
        assert layers == []
        assert call(c.ctx, 0, tokens, 1, 80, 1, each, None) == 0
        assert layers == [(layer, 4 * N_PROMPT) for layer in range(3)]
        assert c.state() == before


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
@pytest.mark.parametrize("reduce", ProbeType)
def test_one_layer_after_the_other(tiny_model, arch, reduce):
    """What a probe returns at once, in the order of the layers, in arrays that nobody can change."""
    with Context(tiny_model(Spec(arch=arch, n_layer=4))) as c:
        assert c.decode(PROMPT, 0) == 0
        before, seen = c.state(), []

        def each(layer: int, attention: np.ndarray) -> None:
            with pytest.raises(ValueError, match="read-only"):
                attention[:] = 0
            seen.append((layer, attention.copy()))

        native.probe_layers(c.ctx, 0, PROBE, N_PROMPT - 20, reduce, each)
        assert [layer for layer, _ in seen] == list(native.probe_heads(c.ctx))
        expected = native.probe(c.ctx, 0, PROBE, N_PROMPT - 20, reduce)
        np.testing.assert_array_equal(np.concatenate([attention for _, attention in seen]), expected)
        assert c.state() == before


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_a_layer_raises_is_raised(tiny_model, error):
    """After the probe, which leaves everything as it was; no other layer is handed over."""
    path = tiny_model(Spec())
    with Context(path) as c, Context(path) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
        before, layers = c.state(), []

        def each(layer: int, _: np.ndarray) -> None:
            layers.append(layer)
            if layer == 1:
                raise error

        with pytest.raises(error):
            native.probe_layers(c.ctx, 0, PROBE, N_PROMPT - 20, ProbeType.NONE, each)
        assert layers == [0, 1]
        assert c.state() == before
        for context in (c, stock):
            assert context.decode(PROBE, N_PROMPT) == 0
        assert c.logits.tobytes() == stock.logits.tobytes()


def test_log_is_captured(tiny_model, capfd):
    """The innermost capture gets what llama.cpp reports; nothing is printed."""
    with Context(tiny_model(Spec())) as c:
        assert c.decode(PROMPT, 0) == 0
        with captured_log() as outer:
            with captured_log() as inner, pytest.raises(DapqError):
                native.probe(c.ctx, 0, PROBE, -1)
            assert (len(inner), len(outer)) == (1, 0)
            assert "invalid pos" in inner[0]
            with pytest.raises(DapqError):
                native.probe(c.ctx, 0, PROBE, -1)
            assert len(outer) == 1
        assert capfd.readouterr().err == ""


def test_empty_sequence(tiny_model):
    with Context(tiny_model(Spec())) as c:
        assert native.probe(c.ctx, 0, PROBE, 0).shape == (12, 0)
        layers = []
        native.probe_layers(c.ctx, 0, PROBE, 0, ProbeType.NONE, lambda *layer: layers.append(layer))
        assert [(layer, attention.shape) for layer, attention in layers] == [(i, (4, N_PROBE, 0)) for i in range(3)]
        assert native.seq_positions(c.ctx, 0).size == 0


def test_layers_of_a_cache(tiny_model):
    spec = Spec(arch="gemma2", n_layer=4)
    with Context(tiny_model(spec)) as c:
        assert c.decode(PROMPT, 0) == 0
        layers = KVCache(c.ctx).probe(PROBE, N_PROMPT)
        assert [(a.layer, a.n_head_kv, a.attention.shape) for a in layers] == [
            (1, 2, (4, N_PROMPT)),
            (3, 2, (4, N_PROMPT)),
        ]


def test_reference_is_the_model(tiny_model):
    """The numpy transformer gives the logits of llama.cpp, for every architecture of the tests."""
    for arch in ("llama", "refact", "gemma2"):
        spec = Spec(arch=arch)
        with Context(tiny_model(spec)) as c:
            assert c.decode(PROMPT, 0) == 0
            expected = forward(spec, PROMPT, list(range(N_PROMPT)), "f16", "f16")[1][-1]
            assert np.abs(c.logits - expected).max() < 0.02 * np.abs(expected).max()
            assert llama_cpp.llama_n_ctx(c.ctx) == 512
