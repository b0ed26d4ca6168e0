"""The values of the cells that stay, in llama.cpp."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from helpers.context import Context
from helpers.formulas import SPEC, read
from helpers.profiles import random_profile
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.eviction.policies import get_policy
from dapq_edge.eviction.policies.parts import AsTheyAre
from dapq_edge.eviction.refit import refit
from dapq_edge.llamacpp.native import ProbeType

N_KEEP = 40

FUSED = get_policy("fused")
AS_THEY_ARE = replace(FUSED, values=AsTheyAre())


# without flash attention, V is transposed
CACHES = {
    "f16": {},
    "bf16": {"type_v": "bf16"},
    "q8_0": {"type_k": "q8_0", "type_v": "q8_0"},
    "transposed": {"flash_attn": False},
}


@pytest.mark.parametrize("options", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("spec", [SPEC, Spec(arch="gemma2", n_layer=4)], ids=["llama", "windows"])
def test_values_are_put_where_they_were(tiny_model, spec, options):
    context, cache = read(tiny_model(spec), **options)
    with context:
        before = context.state()
        for layer in cache.gathered_heads():
            values = cache.values(layer)
            cache.put_values(layer, values)
            assert context.state() == before
            cache.put_values(layer, 2 * values)
            np.testing.assert_array_equal(cache.values(layer), 2 * values)
            cache.put_values(layer, values)


@pytest.mark.parametrize("options", CACHES.values(), ids=CACHES)
def test_an_evicted_cache_answers_more_like_the_full_one(tiny_model, options):
    """The logits behind the first token of the answer, which is one of the queries."""
    far = {}
    for name, policy in {"full": get_policy("full"), "as they are": AS_THEY_ARE, "refitted": FUSED}.items():
        context, cache = read(tiny_model(SPEC), **options)
        with context:
            first = [int(cache.logits.argmax())]
            policy.evict(cache, N_KEEP)
            cache.read(first)
            far[name] = cache.logits.copy()
    error = {name: np.abs(logits - far["full"]).mean() for name, logits in far.items()}
    assert error["refitted"] < 0.8 * error["as they are"]


def test_what_is_kept_is_the_same(tiny_model):
    kept = []
    for policy in (AS_THEY_ARE, FUSED):
        context, cache = read(tiny_model(SPEC))
        with context:
            kept.append(policy.evict(cache, N_KEEP))
            assert cache.n_cells == N_KEEP
            cache.read(random_tokens(5, 1))
    for ours, theirs in zip(kept[1].keep, kept[0].keep, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert kept[1].attention_kept == pytest.approx(kept[0].attention_kept, abs=1e-4)


def test_values_of_all_layers_are_fitted_as_in_one_probe(tiny_model):
    """To what the queries read, layer by layer; with another probe, all attention at once."""
    context, cache = read(tiny_model(SPEC))
    with context:
        tokens, pos = FUSED.queries.tokens(FUSED, cache, N_KEEP)
        layers, values = cache.probe(tokens, pos, ProbeType.NONE), {i: cache.values(i) for i in cache.gathered_heads()}
        keep = FUSED.evict(cache, N_KEEP).keep
        for seen, cells in zip(layers, keep, strict=True):
            by_head = seen.attention.reshape(seen.n_head_kv, -1, seen.attention.shape[-1])
            fitted = [refit(*head) for head in zip(by_head, values[seen.layer], cells, strict=True)]
            np.testing.assert_allclose(cache.values(seen.layer), np.float16(fitted), rtol=2e-3, atol=2e-3)


def test_the_attention_of_all_layers_is_never_in_memory(tiny_model):
    spec, text = Spec(n_head=16, n_head_kv=2, head_dim=32, n_layer=10), random_tokens(400, 1)
    with Context(tiny_model(spec)) as context:
        cache = KVCache(context.ctx)
        cache.read(text)
        tracemalloc.start()
        try:
            FUSED.evict(cache, N_KEEP)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    n_layer = 4 * spec.n_head * 64 * len(text)
    assert peak < 3 * n_layer < spec.n_layer * n_layer / 3


def test_an_error_in_a_layer_evicts_nothing(tiny_model, monkeypatch):
    context, cache = read(tiny_model(SPEC))
    with context:
        before, sequence = context.state(), cache.sequence

        def fail(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr("dapq_edge.eviction.policies.parts.values.refit", fail)
        with pytest.raises(MemoryError):
            FUSED.evict(cache, N_KEEP)
        assert context.state() == before
        assert cache.sequence is sequence


def test_values_that_float16_cannot_hold(tiny_model):
    context, cache = read(tiny_model(SPEC), type_v="bf16")
    with context:
        cache.put_values(1, np.full_like(cache.values(1), 1e6))
        FUSED.evict(cache, N_KEEP)
        assert cache.values(1).min() > 9e5


def test_values_of_layers_with_fewer_cells(tiny_model):
    """They are those of the cells that each layer has, before and after an eviction that makes them differ."""
    context, cache = read(tiny_model(SPEC))
    with context:
        values = {layer: cache.values(layer) for layer in cache.gathered_heads()}
        keep = get_policy("pyramid").evict(cache, 2 * N_KEEP).keep
        assert len({layer.shape[1] for layer in keep}) > 1
        before = context.state()
        for (layer, old), cells in zip(values.items(), keep, strict=True):
            now = cache.values(layer)
            np.testing.assert_array_equal(now, np.take_along_axis(old, cells[:, :, None], axis=1))
            cache.put_values(layer, now)
        assert context.state() == before
        FUSED.evict(cache, N_KEEP)
        cache.read(random_tokens(5, 1))
        assert np.isfinite(cache.logits).all()


def test_each_head_gets_what_fits_its_queries(tiny_model):
    """Of layers that keep other numbers of cells, and again after an eviction."""
    context, cache = read(tiny_model(SPEC))
    cache.n_after = 20
    policy = replace(FUSED, heads=random_profile(SPEC))
    with context:
        for _ in range(2):
            values = {layer: cache.values(layer) for layer in cache.gathered_heads()}
            tokens, pos = policy.queries.tokens(policy, cache, N_KEEP)
            seen = {layer.layer: layer.attention for layer in cache.probe(tokens, pos, ProbeType.NONE)}
            missing = cache.sequence.n_missing or [0] * len(values)
            keep = policy.evict(cache, N_KEEP).keep
            assert len({cells.shape[1] for cells in keep}) > 1
            for layer, cells, n in zip(values, keep, missing, strict=True):
                attention = seen[layer].reshape(len(cells), -1, seen[layer].shape[-1])[..., n:]
                for head, got in enumerate(cache.values(layer)):
                    wanted = refit(attention[head], values[layer][head], cells[head] - n)
                    np.testing.assert_allclose(got, wanted, rtol=5e-3, atol=5e-3)
            cache.read(random_tokens(60, 1))
