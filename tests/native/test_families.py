"""Each family of models: what is supported is right, and what is not is refused."""

from itertools import islice

import pytest
from helpers.checks import eviction_error, is_unchanged, opened, probe_error, read_in_few_cells
from helpers.context import Context
from helpers.families import FAMILIES, REFUSED
from helpers.tokens import random_tokens

from dapq_edge import Llama
from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.errors import UnsupportedModelError
from dapq_edge.eviction.policies import get_policy

PROMPT, QUERIES = random_tokens(75, 1), random_tokens(11, 2)

# K and V are stored as f16
TOLERANCE = 5e-3

# ALiBi can be probed, but needs the position of each cell
PROBED = [name for name, family in FAMILIES.items() if family.full_layers]
EVICTED = [name for name in FAMILIES if name not in REFUSED]


@pytest.fixture
def model(family_model):
    return family_model


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("name", PROBED)
def test_probe_is_attention(model, name, flash_attn):
    assert probe_error(model(name), FAMILIES[name], PROMPT, QUERIES, flash_attn) <= TOLERANCE


@pytest.mark.parametrize("name", EVICTED)
def test_each_head_loses_its_own_cells(model, name):
    assert eviction_error(model(name), PROMPT, QUERIES) <= TOLERANCE


@pytest.mark.parametrize("name", EVICTED)
def test_a_long_prompt_in_few_cells(model, name):
    n_tokens, usage = read_in_few_cells(model(name), random_tokens(1500, 3), 64)
    assert n_tokens == 8
    assert usage.n_evictions == 1
    assert usage.n_cells_used <= 64 + 8
    assert usage.n_cells <= 768


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_changes_within_the_budget(model, name):
    """Also where nothing can be evicted."""
    assert is_unchanged(model(name), random_tokens(300, 3), "auto" if name in REFUSED else 400)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(model, name):
    with opened(model(name)) as cache:
        cache.read(PROMPT)
        assert not cache.can_evict
        with pytest.raises(UnsupportedModelError, match="cannot be evicted"):
            cache.gathered_heads()


@pytest.mark.parametrize("name", FAMILIES)
def test_refused_before_it_is_loaded(model, name, monkeypatch):
    """The header is enough to know."""

    def load(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("llama_cpp.Llama.__init__", load)
    with pytest.raises(UnsupportedModelError if name in REFUSED else MemoryError, match=REFUSED.get(name)):
        Llama(model(name), kv_budget=64, n_ctx=512, verbose=False)
    # the whole cache is always possible
    with pytest.raises(MemoryError):
        Llama(model(name), kv_budget=64, policy="full", n_ctx=512, verbose=False)


def opened_context(path):
    return Context(path, n_seq_max=2, kv_unified=True)


HYBRIDS = ("lfm2", "qwen3next", "qwen35, text")


@pytest.mark.parametrize("policy", ["fused", "laq", "snapkv"])
@pytest.mark.parametrize("name", [*HYBRIDS, "qwen2vl, text"])
def test_scores_leave_everything_as_it_was(model, name, policy):
    """Cells and recurrent states, to the byte, and what comes next, to the bit."""
    with opened_context(model(name)) as c, opened_context(model(name)) as d:
        caches = KVCache(c.ctx), KVCache(d.ctx)
        for cache in caches:
            cache.read(PROMPT)
        before, logits = c.state(), caches[0].logits.copy()
        get_policy(policy).scores(caches[0], 40)
        assert c.state() == before
        assert (caches[0].logits == logits).all()
        for cache in caches:
            cache.read(QUERIES)
        assert (caches[0].logits == caches[1].logits).all()


@pytest.mark.parametrize("name", [*HYBRIDS, "qwen2vl, text"])
def test_an_evicted_state_is_saved_and_loaded(model, name):
    with opened_context(model(name)) as c, opened_context(model(name)) as d:
        first, second = KVCache(c.ctx), KVCache(d.ctx)
        first.read(PROMPT)
        get_policy("fused").evict(first, 40)
        state = c.state()
        d.set_state(state)
        assert d.state() == state
        assert second.n_cells == 40
        for cache in (first, second):
            cache.read(QUERIES)
        assert (first.logits == second.logits).all()


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_prompt_that_diverges_is_read_again(model, name):
    """Recurrent layers cannot forget the last tokens."""
    prompt, other = random_tokens(700, 3), random_tokens(40, 4)
    prompts = [prompt, prompt + other, prompt + other[:5] + random_tokens(20, 5), prompt[:600] + other]
    options = {"kv_budget": 64, "n_ctx": 1024, "n_threads": 2, "n_threads_batch": 2, "verbose": False}
    llama = Llama(model(name), **options)
    for tokens in prompts:
        answer = list(islice(llama.generate(tokens, temp=0), 4))
        if tokens != prompts[1]:
            fresh = Llama(model(name), **options)
            assert answer == list(islice(fresh.generate(tokens, temp=0), 4))
            fresh.close()
    llama.close()
