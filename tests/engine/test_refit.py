"""The values of the cells that stay, in llama.cpp."""

import numpy as np
import pytest
from helpers.formulas import SPEC, read
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge.errors import UnsupportedModelError
from dapq_edge.eviction.policies import get_policy

N_KEEP = 40


@pytest.mark.parametrize("spec", [SPEC, Spec(arch="gemma2", n_layer=4)], ids=["llama", "windows"])
def test_values_are_put_where_they_were(tiny_model, spec):
    context, cache = read(tiny_model(spec))
    with context:
        values, before = cache.values(), context.state()
        cache.put_values(values)
        assert context.state() == before
        cache.put_values([layer + np.float16(1) for layer in values])
        for changed, layer in zip(cache.values(), values, strict=True):
            np.testing.assert_array_equal(changed, layer + np.float16(1))


def test_an_evicted_cache_answers_more_like_the_full_one(tiny_model):
    """The logits behind the first token of the answer, which is one of the queries."""
    far = {}
    for name in ("full", "fused", "refit"):
        context, cache = read(tiny_model(SPEC))
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


def test_transposed_values_are_refused(tiny_model):
    context, cache = read(tiny_model(SPEC), flash_attn=False)
    with context:
        before = context.state()
        with pytest.raises(UnsupportedModelError, match="it must be f16, with flash attention"):
            get_policy("refit").evict(cache, N_KEEP)
        assert context.state() == before


def test_values_of_layers_with_fewer_cells(tiny_model):
    """They are those of the cells that each layer has, before and after an eviction that makes them differ."""
    context, cache = read(tiny_model(SPEC))
    with context:
        values = cache.values()
        keep = get_policy("pyramid").evict(cache, 2 * N_KEEP).keep
        assert len({layer.shape[1] for layer in keep}) > 1
        for now, layer, cells in zip(cache.values(), values, keep, strict=True):
            np.testing.assert_array_equal(now, np.take_along_axis(layer, cells[:, :, None], axis=1))
        before = context.state()
        cache.put_values(cache.values())
        assert context.state() == before
        get_policy("refit").evict(cache, N_KEEP)
        cache.read(random_tokens(5, 1))
        assert np.isfinite(cache.logits).all()
