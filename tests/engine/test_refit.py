"""The values of the cells that stay, in llama.cpp."""

import tracemalloc

import numpy as np
import pytest
from helpers.context import Context
from helpers.formulas import SPEC, read
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.eviction.policies import get_policy
from dapq_edge.eviction.refit import refit
from dapq_edge.llamacpp.native import ProbeType

N_KEEP = 40


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
    for name in ("full", "fused", "refit"):
        context, cache = read(tiny_model(SPEC), **options)
        with context:
            first = [int(cache.logits.argmax())]
            get_policy(name).evict(cache, N_KEEP)
            cache.read(first)
            far[name] = cache.logits.copy()
    error = {name: np.abs(far[name] - far["full"]).mean() for name in ("fused", "refit")}
    assert error["refit"] < 0.8 * error["fused"]


def test_keys_and_what_is_kept_are_those_of_fused(tiny_model):
    kept = []
    for name in ("fused", "refit"):
        context, cache = read(tiny_model(SPEC))
        with context:
            kept.append(get_policy(name).evict(cache, N_KEEP))
            assert cache.n_cells == N_KEEP
            cache.read(random_tokens(5, 1))
    for ours, theirs in zip(kept[1].keep, kept[0].keep, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert kept[1].attention_kept == pytest.approx(kept[0].attention_kept, abs=1e-4)


def test_values_of_all_layers_are_fitted_as_in_one_probe(tiny_model):
    """To what the queries read, layer by layer; with another probe, all attention at once."""
    context, cache = read(tiny_model(SPEC))
    with context:
        policy = get_policy("refit")
        tokens, pos = policy.queries.tokens(policy, cache, N_KEEP)
        layers, values = cache.probe(tokens, pos, ProbeType.NONE), {i: cache.values(i) for i in cache.gathered_heads()}
        keep = policy.evict(cache, N_KEEP).keep
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
            get_policy("refit").evict(cache, N_KEEP)
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

        monkeypatch.setattr("dapq_edge.eviction.policies.refit.refit", fail)
        with pytest.raises(MemoryError):
            get_policy("refit").evict(cache, N_KEEP)
        assert context.state() == before
        assert cache.sequence is sequence


def test_values_that_float16_cannot_hold(tiny_model):
    context, cache = read(tiny_model(SPEC), type_v="bf16")
    with context:
        cache.put_values(1, np.full_like(cache.values(1), 1e6))
        get_policy("refit").evict(cache, N_KEEP)
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
        get_policy("refit").evict(cache, N_KEEP)
        cache.read(random_tokens(5, 1))
        assert np.isfinite(cache.logits).all()
