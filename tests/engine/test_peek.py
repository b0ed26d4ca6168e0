"""Looking ahead and branching: what they see, and that nothing is left of them."""

import numpy as np
import pytest
from helpers.context import Context
from helpers.formulas import SPEC, TOKENS, L, read
from helpers.gathered import WINDOW_SPEC
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.errors import DapqError
from dapq_edge.eviction.policies import get_policy


def test_peek_leaves_no_trace(tiny_model):
    """In a cache, in a gathered one, and in one with windows: the same tokens as decoding there, then nothing."""
    for spec in (SPEC, WINDOW_SPEC):
        context, cache = read(tiny_model(spec))
        with context:
            for _ in range(2):
                before, logits = context.state(), context.logits
                ahead = cache.peek(20)
                assert context.state() == before
                assert context.logits.tobytes() == logits.tobytes()
                assert cache.look_ahead(20) == ahead
                cache.clear()
                cache.read(TOKENS)
                cache.evict(get_policy("streaming").keep(cache, 60))


@pytest.mark.parametrize("n_ahead", [20, 300])
def test_peek_puts_the_window_back(tiny_model, n_ahead):
    """Also when the look-ahead took all cells of the window, and when a state that was loaded has them in disorder."""
    spec, tokens = Spec(arch="gemma2", n_layer=4, window=40), random_tokens(400, 1)
    options = {"n_ctx": 1024, "n_ubatch": 32}
    with Context(tiny_model(spec), **options) as context, Context(tiny_model(spec), **options) as stock:
        cache, expected = KVCache(context.ctx), KVCache(stock.ctx)
        for one in (cache, expected):
            one.read(tokens)
        state = cache.state(of_context=True)
        for _ in range(2):
            logits = context.logits
            assert cache.peek(n_ahead)[0] == expected.peek(n_ahead)[0]
            assert cache.sequence.recent.tolist() == tokens
            assert context.logits.tobytes() == logits.tobytes()
            assert cache.n_cells == len(tokens)
            seen = [c.probe(tokens[:32], len(tokens)) for c in (cache, expected)]
            for ours, theirs in zip(*seen, strict=True):
                np.testing.assert_allclose(ours.attention, theirs.attention, rtol=0.01, atol=1e-4)
            cache.restore(state)
        with Context(tiny_model(spec), n_ctx=1024) as roomy:
            KVCache(roomy.ctx).read(tokens)
            reference = KVCache(roomy.ctx).probe(tokens[:32], len(tokens))
        for ours, theirs in zip(expected.probe(tokens[:32], len(tokens)), reference, strict=True):
            np.testing.assert_allclose(ours.attention, theirs.attention, rtol=0.01, atol=1e-4)


def test_branch_needs_a_second_sequence(tiny_model):
    with Context(tiny_model(SPEC)) as context:
        cache = KVCache(context.ctx)
        with pytest.raises(DapqError, match="no logits"):
            cache.peek(1)
        cache.read(TOKENS)
        keep = get_policy("streaming").keep(cache, 30)
        with pytest.raises(DapqError, match="n_seq_max=2"), cache.branch(keep):
            pass
        assert cache.n_cells == L
