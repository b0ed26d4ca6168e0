"""Eviction to a budget, cycle after cycle, and what cannot be evicted."""

import pytest
from helpers.context import Context
from helpers.tiny import Spec
from helpers.tokens import N_PROMPT, PROBE, PROMPT, random_tokens

from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.errors import UnsupportedModelError
from dapq_edge.eviction.policies import POLICIES, get_policy
from dapq_edge.eviction.select import GRANULARITIES


def test_freed_cells_are_used_again(tiny_model):
    """Decode, evict, decode, ... far beyond the size of the cache."""
    with Context(tiny_model(Spec()), n_ctx=256) as c:
        cache, pos = KVCache(c.ctx), 0
        for cycle in range(20):
            tokens = random_tokens(100, cycle)
            cache.read(tokens)
            pos += len(tokens)
            get_policy("streaming").evict(cache, 100)
            assert cache.positions.tolist() == sorted({*range(4), *range(pos - 96, pos)})
        assert cache.n_cells == 100


@pytest.mark.parametrize("policy", ["dapq", "streaming"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("n_keep", [12, 20, 37])
def test_evicts_to_the_budget(tiny_model, policy, granularity, n_keep):
    with Context(tiny_model(Spec())) as c:
        assert c.decode(PROMPT, 0) == 0
        cache = KVCache(c.ctx)
        n_bytes = cache.n_bytes
        get_policy(policy, granularity).evict(cache, n_keep)
        kept = cache.positions.tolist()
        assert cache.n_cells == n_keep
        # the marks of the cells are more than those of other cells
        assert cache.n_bytes * N_PROMPT == pytest.approx(n_bytes * n_keep, rel=0.05)
        # sinks and recent cells are the same in all heads
        assert kept[:4] == list(range(4))
        assert kept[-8:] == list(range(N_PROMPT - 8, N_PROMPT))


def test_recurrent_model_is_refused(recurrent_model):
    with Context(recurrent_model) as c:
        assert c.decode(PROMPT, 0) == 0
        cache = KVCache(c.ctx)
        for name in set(POLICIES) - {"full"}:
            with pytest.raises(UnsupportedModelError, match="use policy=full"):
                get_policy(name).evict(cache, 20)
        with pytest.raises(UnsupportedModelError):
            cache.probe(PROBE, N_PROMPT)
        get_policy("full").check(cache)
        get_policy("full").evict(cache, N_PROMPT)
