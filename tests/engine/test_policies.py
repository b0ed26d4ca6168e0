"""Scores of each policy against its paper's formula in plain numpy, and what all policies have in common."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.context import Context
from helpers.formulas import FILLER, FORMULAS, SPEC, TOKENS, L, read
from helpers.gathered import Reference, assert_same_logits
from helpers.profiles import random_profile
from helpers.reading import make_prompt
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import open_model
from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.cells import LAYER_STEP
from dapq_edge.errors import UnsupportedModelError, UsageError
from dapq_edge.eviction.budget import Cells, parse_budget
from dapq_edge.eviction.policies import POLICIES, BaseQuestion, DapQ, Policy, ScoringPolicy, get_policy
from dapq_edge.eviction.policies.parts import BySensitivity, Even
from dapq_edge.prompt import Prompt
from dapq_edge.reading.plan import make_plan
from dapq_edge.reading.strategies import READERS

WINDOW_SPEC = Spec(arch="gemma2", n_layer=4)
SCORING = [name for name, policy in POLICIES.items() if issubclass(policy, ScoringPolicy)]
UNEVEN = {"pyramid", "compresskv"}

# those that differ where there is room
CAN_DIFFER = {"fused", "kvzip", "base+question"}


def policy_of(name: str, granularity: str = "head", spec: Spec = SPEC) -> Policy:
    return get_policy(name, granularity, random_profile(spec))


@pytest.mark.parametrize("name", SCORING)
def test_scores_are_the_formula(tiny_model, name):
    context, cache = read(tiny_model(SPEC))
    with context:
        before, logits = context.state(), context.logits
        scores = np.stack(policy_of(name).scores(cache, 40))
        assert context.state() == before
        assert KVCache(context.ctx, 1).n_cells == 0
        assert context.logits.tobytes() == logits.tobytes()
    expected = FORMULAS[name]()
    assert scores.shape == expected.shape
    assert np.abs(scores - expected).max() < 0.02 * expected.max()


def test_fused_reads_with_filler():
    """What would follow in the middle of a text is not the answer."""
    fused = get_policy("fused", "layer")
    assert fused.while_reading == DapQ(granularity="layer", layer_budget=BySensitivity())
    assert get_policy("laq").while_reading == get_policy("laq")
    assert get_policy("base+question", "layer").while_reading == get_policy("kvzip", "layer")


def test_kvzip_repeats_every_token_once(tiny_model, monkeypatch):
    """What was repeated keeps its score when more is read, and after an eviction."""
    context, cache = read(tiny_model(SPEC))
    policy, repeated, probe = get_policy("kvzip"), [], cache.probe
    monkeypatch.setattr(cache, "probe", lambda tokens, *args: repeated.append(tokens.tolist()) or probe(tokens, *args))
    with context:
        before = policy.scores(cache, 40)
        assert repeated == [TOKENS[:56], TOKENS[48:]]
        keep = policy.keep(cache, 40)
        policy.evict(cache, 40)
        assert len(repeated) == 2
        more = random_tokens(20, 1)
        cache.read(more)
        after = policy.scores(cache, 40)
        assert repeated[2:] == [more]
        for was, now, cells in zip(before, after, keep, strict=True):
            known = np.take_along_axis(was, cells, axis=1)
            assert (now[:, -20 - cells.shape[1] : -20] >= known).all()
        cache.truncate(L + 10)
        assert all((now[:, :-10] == was).all() for now, was in zip(after, policy.scores(cache, 40), strict=True))
        assert len(repeated) == 3


def test_base_question_is_kvzip_then_fused(tiny_model):
    """Of the cells that can be chosen, three quarters are kvzip's best, and the others fused's best of the rest."""
    context, cache = read(tiny_model(SPEC))
    with context:
        keep = BaseQuestion(layer_budget=Even()).keep(cache, 40)
    n_base = (40 - 12) * 3 // 4
    for cells, base, question in zip(keep, FORMULAS["kvzip"](), FORMULAS["fused"](), strict=True):
        for kept, of_text, of_answer in zip(cells, base, question, strict=True):
            chosen = set(np.argsort(of_text[4:-8])[-n_base:] + 4)
            rest = [cell for cell in np.argsort(of_answer) if cell not in chosen and 4 <= cell < L - 8]
            expected = {*range(4), *range(L - 8, L), *chosen, *rest[-(28 - n_base) :]}
            # cells that are nearly as good may change places
            assert len(expected & set(kept.tolist())) >= 38


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
            with pytest.raises(UsageError, match="granularity cell"):
                policy.evict(cache, 40)
            return
        keep = policy.keep(cache, 40)
        assert np.mean([layer.shape[1] for layer in keep]) == pytest.approx(40, abs=0.5)
        always = {*range(policy.n_sink), *range(L - policy.n_recent, L)}
        assert all(always <= set(head) for layer in keep for head in layer.tolist())
        before = cache.n_bytes
        policy.evict(cache, 40)
        assert cache.n_cells <= 40 * policy.max_share
        assert cache.next_position == L
        assert cache.n_bytes < before
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
        assert context.state() == stock.state()
        assert context.logits.tobytes() == stock.logits.tobytes()
        for each in (cache, stock_cache):
            each.read(FILLER)
        assert context.logits.tobytes() == stock.logits.tobytes()


@pytest.mark.parametrize("name", SCORING)
def test_budget_below_the_minimum(name):
    policy = policy_of(name)
    n_min = policy.n_sink + policy.n_recent
    if n_min > 1:
        with pytest.raises(UsageError, match=f"always keeps {n_min} cells"):
            policy.cells_to_keep(parse_budget(str(n_min - 1)), L)
    # a share that comes out below the minimum is raised to it
    assert policy.cells_to_keep(parse_budget("1%"), L) == max(n_min, 1)
    assert policy.cells_to_keep(parse_budget("11"), 5) == 5


def test_uneven_layers_leave_room_for_a_branch(tiny_model):
    """The next eviction looks ahead on one."""
    heads = replace(random_profile(SPEC), sensitivity={0: 0.0, 1: 0.0, 2: 1.0})
    policy = replace(get_policy("laq", heads=heads), layer_budget=BySensitivity())
    engine = open_model(tiny_model(Spec(n_ctx=8192)), n_threads=1)
    engine.read(make_prompt(1500, has_question=False), policy, Cells(256), n_predict=16)
    assert any(engine.sequence.n_missing)
    engine.close()


def test_uneven_layers_keep_what_is_pinned(tiny_model):
    """Also when they are evicted again, and it is more than a layer's share of the budget."""
    pinned, policy = np.arange(100), policy_of("fused")
    with Context(tiny_model(SPEC), n_ctx=1024) as context:
        cache = KVCache(context.ctx)
        cache.pin(pinned)
        for i in range(3):
            cache.read(random_tokens(250, i))
            assert len({layer.shape[1] for layer in policy.evict(cache, 200).keep}) > 1
            assert all(np.isin(pinned, head).all() for layer in cache.sequence.kept for head in layer)


@pytest.mark.parametrize("name", sorted(UNEVEN | CAN_DIFFER))
def test_uneven_layers_are_evicted_again(tiny_model, name):
    """What a layer has lost is never chosen again, and each head sees exactly what was kept."""
    context, cache = read(tiny_model(SPEC))
    reference, policy, pos = Reference(SPEC, TOKENS), policy_of(name), L
    # of a tiny context, no chunk is free
    cache.n_after = 20
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
    prompt, policy = Prompt.of(tokens[:5], tokens[5:1580], tokens[1580:], has_question), policy_of(name)
    options = {"n_predict": 16, "n_ctx_train": 8192}
    if name == "h2o":
        with pytest.raises(UsageError, match="set one_shot"):
            make_plan(prompt, policy, Cells(100), **options)
        return
    made = make_plan(prompt, policy, Cells(100), **options)
    with Context(tiny_model(SPEC), n_ctx=-(-made.n_cells // 256) * 256, n_seq_max=2, kv_unified=True) as context:
        reader = READERS[made.mode](KVCache(context.ctx), policy, made)
        reader.read(prompt)
        # after skimming, positions count what is read
        is_skimmed = has_question and policy.sees_attention
        assert reader.cache.next_position <= made.n_positions if is_skimmed else reader.cache.next_position == 1600
        assert reader.kept.n_cells <= (1600 if name == "full" else 100 + LAYER_STEP // 2)
        # the layer with most cells has room for the answer
        assert reader.cache.n_cells + made.n_predict <= reader.cache.allocated[0]
