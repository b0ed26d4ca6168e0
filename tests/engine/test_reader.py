"""Reading in bounded memory: what each way of reading leaves in the cache."""

import llama_cpp
import numpy as np
import pytest
from helpers.context import Context
from helpers.profiles import random_profile
from helpers.reading import make_plan, make_prompt
from helpers.tiny import Spec, forward
from helpers.tokens import random_tokens

from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.cells import CHUNK
from dapq_edge.errors import NoFreeCellsError
from dapq_edge.eviction.policies import get_policy
from dapq_edge.llamacpp import native
from dapq_edge.reading.choice import choose
from dapq_edge.reading.evidence import Guess
from dapq_edge.reading.relevance import N_LOOK_AHEAD
from dapq_edge.reading.strategies import READERS, Skimming
from dapq_edge.reading.windows import N_OVERLAP, excerpts

SPEC = Spec(n_ctx=8192)


def read(path, prompt, policy="dapq", budget="100", heads=None, **options):
    """A context that has read the prompt, its cache, and the reader."""
    made = make_plan(prompt, policy, budget, **options)
    context = Context(path, n_ctx=-(-made.n_cells // 256) * 256)
    reader = READERS[made.mode](KVCache(context.ctx), get_policy(policy), made, skimming=Skimming(Guess(heads)))
    reader.read(prompt)
    return context, reader.cache, reader


def test_prompt_within_the_budget_is_stock(tiny_model):
    prompt = make_prompt(600)
    context, cache, reader = read(tiny_model(SPEC), prompt, budget="1000")
    with context, Context(tiny_model(SPEC), n_ctx=1024) as stock:
        assert stock.decode(prompt.tokens[:512], 0) == stock.decode(prompt.tokens[512:], 512) == 0
        assert cache.n_cells == len(prompt)
        assert reader.chunks == []
        assert context.logits.tobytes() == stock.logits.tobytes()
        assert context.state() == stock.state()


@pytest.mark.parametrize("policy", ["dapq", "streaming"])
def test_one_pass(tiny_model, policy):
    prompt = make_prompt(3000, has_question=False)
    context, cache, reader = read(tiny_model(SPEC), prompt, policy, "100")
    with context:
        assert native.n_cells(context.ctx) <= -(-(100 + CHUNK) // 256) * 256
        assert cache.n_cells == 100
        assert cache.next_position == len(prompt)
        assert reader.n_done == len(prompt)
        assert cache.positions[:4].tolist() == [0, 1, 2, 3]
        assert cache.positions[-8:].tolist() == list(range(len(prompt) - 8, len(prompt)))
        assert context.decode(random_tokens(5, 1), len(prompt)) == 0


def test_streaming_in_one_pass_is_streaming(tiny_model):
    """What is kept depends on positions only, so that reading in one pass keeps the cells that a full cache would."""
    prompt = make_prompt(1500, has_question=False)
    context, cache, _ = read(tiny_model(SPEC), prompt, "streaming", "100")
    with context:
        assert cache.positions.tolist() == [*range(4), *range(len(prompt) - 96, len(prompt))]


@pytest.mark.parametrize("budget", ["100", *(pytest.param(n, marks=pytest.mark.slow) for n in ("700", "1600"))])
def test_skim_then_read(tiny_model, budget):
    """What is chosen is read as one text, with all that stands around it; the cache is that of reading that text."""
    prompt = make_prompt(3000)
    context, cache, reader = read(tiny_model(SPEC), prompt, budget=budget)
    chunks, made = reader.chunks, reader.plan
    assert [chunk.start for chunk in chunks[1:]] == [chunk.stop for chunk in chunks[:-1]]
    assert (chunks[0].start, chunks[-1].stop) == (0, 3000)
    windows = excerpts([3000], made.n_window, made.n_chunk)
    chosen = np.flatnonzero(choose(prompt, windows, chunks, made.n_body, made.n_window)[prompt.body_index])
    expected = set(chosen.tolist())
    assert 0 < len(expected) <= made.n_body
    assert [c.is_read for c in chunks] == [bool(expected & set(range(c.start, c.stop))) for c in chunks]

    tokens = [*prompt.head, *(prompt.body[i] for i in sorted(expected)), *prompt.tail]
    _, logits = forward(SPEC, tokens, list(range(len(tokens))), "f16", "f16")
    with context:
        np.testing.assert_allclose(context.logits, logits[-1], atol=0.02 * np.abs(logits[-1]).max())
        assert cache.n_cells == min(int(budget), len(tokens))
        assert cache.next_position == len(tokens)


@pytest.mark.parametrize("has_profile", [False, True])
def test_relevance_is_attention_of_the_question_and_the_look_ahead(tiny_model, has_profile):
    """Against a plain reading of its definition, on the reference's attention."""
    prompt, profile = make_prompt(1000), random_profile(SPEC) if has_profile else None
    context, _, reader = read(tiny_model(SPEC), prompt, budget="100", heads=profile)
    context.close()
    n_window = reader.plan.n_window
    assert len(prompt.body) > n_window
    stop = excerpts([len(prompt.body)], n_window)[0].chunks[-1].stop
    with Context(tiny_model(SPEC), n_ctx=1024) as c:
        window = [chunk for chunk in reader.chunks if chunk.stop <= stop]
        tokens = prompt.head + prompt.body[: stop + N_OVERLAP] + prompt.tail
        cache = KVCache(c.ctx)
        cache.read(tokens)
        ahead, confidence = cache.look_ahead(N_LOOK_AHEAD)
    attention, logits = forward(SPEC, tokens + ahead, list(range(len(tokens + ahead))), "f16", "f16")
    assert ahead == logits[len(tokens) - 1 : -1].argmax(axis=1).tolist()
    logits = logits[len(tokens) - 1 : -1].astype(np.float64)
    probabilities = np.exp(logits.max(axis=1)) / np.exp(logits).sum(axis=1)
    # how an answer begins says little
    assert confidence == pytest.approx(np.exp(np.log(probabilities[1:]).mean()), rel=0.03)
    asked, guessed = (
        attention[:, :, queries].max(axis=2).reshape(-1, len(tokens + ahead))
        for queries in (slice(len(tokens) - 20, len(tokens)), slice(len(tokens), None))
    )
    known = np.argsort(np.concatenate(list(profile.retrieval.values())))[-8:] if profile else None
    for chunk in window:
        of_queries, last = [], chunk.stop + (N_OVERLAP if chunk.stop == stop else 0)
        for largest in (asked, guessed):
            by_head = largest[:, 5 + chunk.start : 5 + last].max(axis=1)
            of_queries.append((by_head[known] if has_profile else np.sort(by_head)[-8:]).mean())
        assert chunk.relevance == pytest.approx((of_queries[0] + of_queries[1] * confidence) / 2, rel=0.03)


def test_window_model(tiny_model):
    """The sliding-window layers go on after an eviction."""
    path = tiny_model(Spec(arch="gemma2", n_layer=4, n_ctx=8192))
    for has_question in (True, False):
        context, cache, _ = read(path, make_prompt(3000, has_question=has_question))
        with context:
            pos = cache.next_position
            assert cache.n_cells == 100
            assert pos < 600 if has_question else pos == 3025
            assert context.decode(random_tokens(5, 1), pos) == 0


def test_memory_runs_out_in_the_middle(tiny_model):
    """No free cell: an error that says so, and the context can be used again."""
    prompt = make_prompt(3000, has_question=False)
    made = make_plan(prompt)
    with Context(tiny_model(SPEC), n_ctx=512) as c:
        reader = READERS[made.mode](KVCache(c.ctx), get_policy("dapq"), made)
        with pytest.raises(NoFreeCellsError):
            reader.read(prompt)
        reader.cache.clear()
        assert c.decode(prompt.tokens[:100], 0) == 0
        assert llama_cpp.llama_memory_seq_pos_max(c.memory, 0) == 99
