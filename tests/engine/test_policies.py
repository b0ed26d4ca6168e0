"""Scores of each policy against its paper's formula in plain numpy, and what all policies have in common."""

import ctypes

import llama_cpp
import numpy as np
import pytest
from context import Context
from gathered import Reference, assert_same_logits
from test_probe import random_tokens
from tiny import N_VOCAB, Spec, forward

from dapq_edge.budgets import STEP, Budget, in_steps, pyramid
from dapq_edge.cache import KVCache
from dapq_edge.errors import DapqError, UnsupportedModelError, UsageError
from dapq_edge.heads import HeadProfile
from dapq_edge.policies import POLICIES, get_policy
from dapq_edge.policies.base import Policy, ScoringPolicy
from dapq_edge.reader import Prompt, Reader, plan

SPEC = Spec(n_ctx=8192)
WINDOW_SPEC = Spec(arch="gemma2", n_layer=4)
L = 90
TOKENS = random_tokens(L, 11)
SCORING = [name for name, policy in POLICIES.items() if issubclass(policy, ScoringPolicy)]
UNEVEN = {"pyramid", "compresskv"}
FILLER = np.random.default_rng(0).integers(N_VOCAB, size=32).tolist()


def random_profile(spec: Spec) -> HeadProfile:
    rng = np.random.default_rng(0)
    retrieval = {il: rng.random(spec.n_head).tolist() for il in spec.full_layers}
    return HeadProfile("", retrieval, dict(zip(spec.full_layers, [0.1, 0.4, 0.2], strict=False)))


def policy_of(name: str, granularity: str = "head", spec: Spec = SPEC) -> Policy:
    return get_policy(name, granularity, random_profile(spec))


def attention_of(queries: list[int], pos: int = L) -> np.ndarray:
    """What queries at `pos` and after it pay to each token of the prompt before them: [layer, query head, query, L]."""
    tokens = TOKENS[:pos] + queries
    weights, _ = forward(SPEC, tokens, list(range(len(tokens))), "f16", "f16")
    seen = np.zeros((*weights.shape[:2], len(queries), L))
    seen[..., :pos] = weights[:, :, pos:, :pos]
    return seen


def smooth(x: np.ndarray) -> np.ndarray:
    """Average over 5 neighbours along the last axis."""
    return np.apply_along_axis(lambda row: np.convolve(row, np.ones(5) / 5, mode="same"), -1, x)


def kv_heads(x: np.ndarray) -> np.ndarray:
    """Mean over the query heads of a KV head: [layer, KV head, L]."""
    return x.reshape(len(x), SPEC.n_head_kv, -1, L).mean(axis=2)


def snapkv_formula(window: int = 32) -> np.ndarray:
    return kv_heads(smooth(attention_of(TOKENS[-window:], L - window).mean(axis=2)))


def dapq_formula(queries: list[int], pooled: float = 1) -> np.ndarray:
    largest = attention_of(queries).max(axis=2)
    scores = largest + pooled * smooth(largest)
    return kv_heads(scores / scores[..., 4:-8].sum(axis=-1, keepdims=True))


def greedy(reference: Reference, n: int) -> list[int]:
    """The next tokens, decoded one after the other."""
    tokens = []
    for pos in range(L, L + n):
        tokens.append(int(reference.logits.argmax()))
        reference.decode(tokens[-1:], pos)
    return tokens


def answer(n: int) -> list[int]:
    return greedy(Reference(SPEC, TOKENS), n)


def laq_guess(n_keep: int) -> list[int]:
    """What follows after the cells that SnapKV keeps; the first token comes from the whole prompt."""
    reference, window = Reference(SPEC, TOKENS), min(32, n_keep // 2)
    tokens = [int(reference.logits.argmax())]
    candidates = snapkv_formula(window)[:, :, 4 : L - window]
    best = np.argsort(candidates, axis=-1, kind="stable")[..., -(n_keep - 4 - window) :] + 4
    always = [*range(4), *range(L - window, L)]
    reference.gather([[np.sort([*always, *head]) for head in layer] for layer in best])
    for pos in range(L, L + 7):
        reference.decode(tokens[-1:], pos)
        tokens.append(int(reference.logits.argmax()))
    return tokens


def h2o_formula() -> np.ndarray:
    total = sum(attention_of(TOKENS[start : start + 64], start).sum(axis=2) for start in range(0, L, 64))
    return kv_heads(total)


def compresskv_formula() -> np.ndarray:
    """The best four heads of each layer choose for all of its heads."""
    seen, heads = attention_of(TOKENS[-8:], L - 8).mean(axis=2), random_profile(SPEC).retrieval
    best = [seen[il, np.argsort(heads[il])[-4:]].mean(axis=0) for il in range(SPEC.n_layer)]
    return smooth(np.stack(best))[:, None].repeat(SPEC.n_head_kv, axis=1)


FORMULAS = {
    "dapq": lambda: dapq_formula(FILLER),
    "fused": lambda: dapq_formula(answer(32) + FILLER, 0.25),
    "oracle": lambda: dapq_formula(answer(48)),
    "snapkv": snapkv_formula,
    "pyramid": lambda: snapkv_formula(8),
    "laq": lambda: kv_heads(smooth(attention_of(laq_guess(40)).mean(axis=2))),
    "laq++": lambda: kv_heads(smooth(attention_of(TOKENS[-8:] + laq_guess(40), L - 8).mean(axis=2))),
    "tova": lambda: attention_of(TOKENS[-1:], L - 1).mean(axis=(1, 2))[:, None].repeat(SPEC.n_head_kv, axis=1),
    "h2o": h2o_formula,
    "compresskv": compresskv_formula,
    "streaming": lambda: np.tile(np.arange(L), (SPEC.n_layer, SPEC.n_head_kv, 1)),
}


def read(path, **options) -> tuple[Context, KVCache]:
    context = Context(path, n_seq_max=2, kv_unified=True, **options)
    cache = KVCache(context.ctx)
    cache.read(TOKENS)
    return context, cache


@pytest.mark.parametrize("name", SCORING)
def test_scores_are_the_formula(tiny_model, name):
    context, cache = read(tiny_model(SPEC))
    with context:
        before, logits = context.state(), context.logits
        scores = np.stack(policy_of(name).scores(cache, 40))
        assert context.state() == before and KVCache(context.ctx, 1).n_cells == 0
        assert context.logits.tobytes() == logits.tobytes()
    expected = FORMULAS[name]()
    assert scores.shape == expected.shape
    assert np.abs(scores - expected).max() < 0.02 * expected.max()


def test_fused_reads_with_filler():
    """What would follow in the middle of a text is not the answer."""
    fused = get_policy("fused", "layer")
    assert fused.while_reading == get_policy("dapq", "layer")
    assert get_policy("laq").while_reading == get_policy("laq")


@pytest.mark.parametrize("granularity", ["head", "layer", "cell"])
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize("spec", [SPEC, WINDOW_SPEC, Spec(n_head_kv=1)], ids=["llama", "windows", "mqa"])
@pytest.mark.parametrize("name", SCORING)
def test_matrix(tiny_model, name, spec, cache_type, granularity):
    """Every policy evicts every kind of cache to its budget, keeps what it has to, and the model goes on."""
    context, cache = read(tiny_model(spec), type_k=cache_type, type_v=cache_type)
    policy = policy_of(name, granularity, spec)
    with context:
        if name == "h2o" and spec is WINDOW_SPEC:
            with pytest.raises(UnsupportedModelError, match="sliding-window"):
                policy.evict(cache, 40)
            return
        if name in UNEVEN and granularity == "cell":
            with pytest.raises(UsageError, match="--granularity cell"):
                policy.evict(cache, 40)
            return
        keep = policy.keep(cache, 40)
        assert np.mean([layer.shape[1] for layer in keep]) == pytest.approx(40, abs=0.5)
        always = {*range(policy.n_sink), *range(L - policy.n_recent, L)}
        assert all(always <= set(head) for layer in keep for head in layer.tolist())
        before = cache.n_bytes
        policy.evict(cache, 40)
        assert cache.n_cells <= 40 * policy.max_share and cache.next_position == L and cache.n_bytes < before
        cache.read(random_tokens(5, 1))
        assert np.isfinite(cache.logits).all()


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("flash_attn", [False, True])
def test_evicting_nothing_gives_the_stock_logits(tiny_model, name, flash_attn):
    context, cache = read(tiny_model(SPEC), flash_attn=flash_attn)
    stock, stock_cache = read(tiny_model(SPEC), flash_attn=flash_attn)
    with context, stock:
        for n_keep in (L, 1000000):
            policy_of(name).evict(cache, n_keep)
        assert context.state() == stock.state() and context.logits.tobytes() == stock.logits.tobytes()
        for each in (cache, stock_cache):
            each.read(FILLER)
        assert context.logits.tobytes() == stock.logits.tobytes()


@pytest.mark.parametrize("name", SCORING)
def test_budget_below_the_minimum(name):
    policy = policy_of(name)
    n_min = policy.n_sink + policy.n_recent
    if n_min > 1:
        with pytest.raises(UsageError, match=f"always keeps {n_min} cells"):
            policy.cells_to_keep(Budget.parse(str(n_min - 1)), L)
    # a share that comes out below the minimum is raised to it
    assert policy.cells_to_keep(Budget.parse("1%"), L) == max(n_min, 1)
    assert policy.cells_to_keep(Budget.parse("11"), 5) == 5


def test_peek_leaves_no_trace(tiny_model):
    """In a cache, in a gathered one, and in one with windows: the same tokens as decoding there, then nothing."""
    for spec in (SPEC, WINDOW_SPEC):
        context, cache = read(tiny_model(spec))
        with context:
            for _ in range(2):
                before, logits = context.state(), context.logits
                ahead = cache.peek(20)
                assert context.state() == before and context.logits.tobytes() == logits.tobytes()
                assert cache.look_ahead(20) == ahead
                cache.clear()
                cache.read(TOKENS)
                cache.evict(get_policy("streaming").keep(cache, 60))


@pytest.mark.parametrize("n_ahead", [20, 300])
def test_peek_puts_the_window_back(tiny_model, n_ahead):
    """Also when the look-ahead took all cells of the window, and when a state that was loaded has them in disorder."""
    spec, tokens = Spec(arch="gemma2", n_layer=4, window=40), random_tokens(400, 1)
    options = dict(n_ctx=1024, n_ubatch=32)
    with Context(tiny_model(spec), **options) as context, Context(tiny_model(spec), **options) as stock:
        cache, expected = KVCache(context.ctx), KVCache(stock.ctx)
        for one in (cache, expected):
            one.read(tokens)
        state = (ctypes.c_uint8 * llama_cpp.llama_state_get_size(context.ctx))()
        assert llama_cpp.llama_state_get_data(context.ctx, state, len(state)) == len(state)
        for _ in range(2):
            logits = context.logits
            assert cache.peek(n_ahead)[0] == expected.peek(n_ahead)[0] and len(cache.recent) == len(tokens)
            assert context.logits.tobytes() == logits.tobytes() and cache.n_cells == len(tokens)
            seen = [c.probe(tokens[:32], len(tokens)) for c in (cache, expected)]
            for ours, theirs in zip(*seen, strict=True):
                np.testing.assert_allclose(ours.attention, theirs.attention, rtol=0.01, atol=1e-4)
            assert llama_cpp.llama_state_set_data(context.ctx, state, len(state)) > 0
            cache.tokens = list(tokens)
            cache.logits[:] = logits
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


def test_pyramid():
    assert pyramid(100, 5, 12, 1000) == [188, 144, 100, 56, 12]
    assert pyramid(100, 3, 1, 1000) == [195, 100, 5]
    assert pyramid(12, 3, 12, 1000) == [12, 12, 12] and pyramid(40, 1, 12, 1000) == [40]
    # a layer cannot keep more than there is
    assert pyramid(80, 5, 12, 100) == [100, 90, 80, 70, 60]


def test_layers_differ_in_steps():
    assert in_steps([100, 100, 100], [500] * 3, 12) == [100, 100, 100]
    assert in_steps([188, 144, 100, 56, 12], [500] * 5, 12) == [183, 151, 87, 55, 23]
    # the first and the last have less than they may keep
    assert in_steps([188, 144, 100], [70, 102, 38], 12) == [70, 102, 38]
    assert in_steps([60, 60, 30], [70, 102, 38], 12) == [38, 38, 38]


@pytest.mark.parametrize("is_uneven", [False, True])
def test_steps_keep_their_bounds(is_uneven):
    """No layer keeps more than it has or less than the sinks and the recent cells; the mean stays."""
    rng = np.random.default_rng(1)
    for _ in range(500):
        n_layer, n_min = rng.integers(2, 9), int(rng.integers(1, 20))
        has = rng.integers(20, 400) + STEP * rng.integers(0, 9 if is_uneven else 1, n_layer)
        n_keep = rng.integers(n_min, n_min + 300, n_layer)
        wanted, kept = np.minimum(n_keep, has), np.array(in_steps(n_keep.tolist(), has.tolist(), n_min))
        assert ((kept - kept[0]) % STEP == 0).all()
        assert (kept >= n_min).all() and (kept <= has).all()
        assert is_uneven or kept.max() == wanted.max() or abs(kept.mean() - wanted.mean()) <= 1


@pytest.mark.parametrize("name", sorted(UNEVEN))
def test_uneven_layers_are_evicted_again(tiny_model, name):
    """What a layer has lost is never chosen again, and each head sees exactly what was kept."""
    context, cache = read(tiny_model(SPEC))
    reference, policy, pos = Reference(SPEC, TOKENS), policy_of(name), L
    with context:
        for i in range(3):
            keep = policy.keep(cache, 30)
            cache.evict(keep)
            reference.gather(keep)
            more = random_tokens(20, 20 + i)
            cache.read(more)
            reference.decode(more, pos)
            pos += len(more)
            assert cache.n_cells == max(layer.shape[1] for layer in keep) + 20
            assert_same_logits(context.logits, reference.logits, 0.02)


@pytest.mark.parametrize("name", [*SCORING, "full"])
@pytest.mark.parametrize("has_question", [False, True])
def test_bounded_reading(tiny_model, name, has_question):
    tokens = random_tokens(1600, 5)
    prompt, policy = Prompt(tokens[:5], tokens[5:1580], tokens[1580:], has_question), policy_of(name)
    options = dict(n_predict=16, n_ctx_train=8192)
    if name == "h2o":
        with pytest.raises(UsageError, match="set --one-shot"):
            plan(prompt, policy, Budget(100, is_share=False), **options)
        return
    made = plan(prompt, policy, Budget(100, is_share=False), **options)
    with Context(tiny_model(SPEC), n_ctx=-(-made.n_cells // 256) * 256, n_seq_max=2, kv_unified=True) as context:
        reader = Reader(KVCache(context.ctx), policy, made, lambda done, total: None)
        reader.read(prompt)
        # after skimming, positions count what is read
        is_skimmed = has_question and policy.skims
        assert reader.cache.next_position <= made.n_positions if is_skimmed else reader.cache.next_position == 1600
        assert reader.cache.n_cells <= (1600 if name == "full" else 100 * policy.max_share)
