"""The values of the cells that stay, in llama.cpp."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.formulas import SPEC, read
from helpers.profiles import random_profile
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge.eviction.policies import get_policy
from dapq_edge.eviction.policies.parts import AsTheyAre
from dapq_edge.eviction.refit import refit
from dapq_edge.llamacpp.native import ProbeType

N_KEEP = 40

FUSED = get_policy("fused")
POLICIES = {"full": get_policy("full"), "as they are": replace(FUSED, values=AsTheyAre()), "refitted": FUSED}

KINDS = [
    {"flash_attn": True},
    {"flash_attn": False},
    {"flash_attn": True, "type_k": "q8_0", "type_v": "q8_0"},
]


@pytest.mark.parametrize("spec", [SPEC, Spec(arch="gemma2", n_layer=4)], ids=["llama", "windows"])
def test_values_are_put_where_they_were(tiny_model, spec):
    context, cache = read(tiny_model(spec))
    with context:
        layers, before = list(cache.gathered_heads()), context.state()
        values = {layer: cache.values(layer) for layer in layers}
        for layer in layers:
            cache.put_values(layer, values[layer])
        assert context.state() == before
        for layer in layers:
            changed = (values[layer] + 1).astype(np.float16)
            cache.put_values(layer, changed)
            np.testing.assert_array_equal(cache.values(layer), changed)


@pytest.mark.parametrize("options", KINDS, ids=["f16", "transposed", "q8_0"])
def test_an_evicted_cache_answers_more_like_the_full_one(tiny_model, options):
    """The logits behind the first token of the answer, which is one of the queries."""
    far = {}
    for name, policy in POLICIES.items():
        context, cache = read(tiny_model(SPEC), **options)
        with context:
            first = [int(cache.logits.argmax())]
            policy.evict(cache, N_KEEP)
            cache.read(first)
            far[name] = cache.logits.copy()
    error = {name: np.abs(far[name] - far["full"]).mean() for name in far}
    assert error["refitted"] < 0.85 * error["as they are"]


def test_what_is_kept_and_the_keys_are_the_same(tiny_model):
    evictions = []
    for name in ("as they are", "refitted"):
        context, cache = read(tiny_model(SPEC))
        with context:
            evictions.append(POLICIES[name].evict(cache, N_KEEP))
            assert cache.n_cells == N_KEEP
            cache.read(random_tokens(5, 1))
    for ours, theirs in zip(evictions[1].keep, evictions[0].keep, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert evictions[1].attention_kept == pytest.approx(evictions[0].attention_kept, abs=1e-6)


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


def test_a_fault_leaves_what_was_there(tiny_model, monkeypatch):
    """Whatever goes wrong before cells are moved."""
    context, cache = read(tiny_model(SPEC))

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr("dapq_edge.eviction.policies.parts.values.refit", fails)
    with context:
        before = context.state()
        with pytest.raises(MemoryError):
            FUSED.evict(cache, N_KEEP)
        assert context.state() == before
        assert cache.n_cells == cache.sequence.n_cells
