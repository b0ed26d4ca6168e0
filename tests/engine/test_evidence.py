"""Relevance by query heads: what they see, how deep a window is evaluated for that, and when reading stops."""

import base64
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from helpers.context import Context
from helpers.llamas import opened
from helpers.profiles import random_profile
from helpers.reading import make_plan, make_prompt
from helpers.tiny import Spec, forward

from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.calibration.query_heads import Judged, best_heads
from dapq_edge.errors import DapqError, UsageError
from dapq_edge.eviction.budget import Cells
from dapq_edge.eviction.heads import QueryHead
from dapq_edge.eviction.policies import get_policy
from dapq_edge.llamacpp import native
from dapq_edge.prompt.chat_template import chat_prompt
from dapq_edge.prompt.window import window_of
from dapq_edge.reading.evidence import MIDDLE, MIN_ATTENTION, N_CELLS, N_PROBED, SLOPE, Guess, QueryHeads
from dapq_edge.reading.lexical import Matches
from dapq_edge.reading.open_model import open_model
from dapq_edge.reading.order import BY_WORDS
from dapq_edge.reading.strategies import Skimming, SkimReader
from dapq_edge.reading.windows import N_OVERLAP, excerpts

SPEC = Spec(n_ctx=8192)
NEUTRAL = [40, 41, 42]
HEADS = (QueryHead(1, 2, 2.0, 0.4, 0.3), QueryHead(0, 1, 1.0, 0.2, 0.5), QueryHead(2, 0, 0.5, 0, 1))


def skim(path, prompt, skimming, **options):
    """The reader of a prompt, and its cache."""
    made = make_plan(prompt, **options)
    with Context(path, n_ctx=-(-made.n_cells // 256) * 256) as context:
        reader = SkimReader(KVCache(context.ctx), get_policy("dapq"), made, skimming=skimming)
        reader.read(prompt)
        assert native.probe_heads(context.ctx).keys() == set(SPEC.full_layers)
    return reader


@pytest.mark.parametrize("n_question", [20, 100])
def test_relevance_is_attention_against_a_question_without_content(tiny_model, n_question):
    """Against a plain reading of its definition, on the reference's attention; of the two best heads.

    Of a question that has more tokens than a probe, the first ones are read.
    """
    prompt = make_prompt(1500, n_tail=n_question)
    reader = skim(tiny_model(SPEC), prompt, Skimming(QueryHeads(HEADS, NEUTRAL)), budget="300")
    stop = excerpts([1500], reader.plan.n_window)[0].chunks[-1].stop
    asking, seen = window_of(prompt).asking, []
    assert asking == prompt.tail
    text = prompt.head + prompt.body[: stop + N_OVERLAP] + asking[:-N_PROBED]
    for question in (asking[-N_PROBED:], NEUTRAL):
        tokens = text + question
        attention, _ = forward(SPEC, tokens, list(range(len(tokens))), "f16", "f16")
        largest = attention[:, :, len(text) :].max(axis=2)
        seen.append(np.stack([largest[head.layer, head.head] for head in HEADS[:2]]))
    ratio = np.log((seen[0][:, : len(text)] + MIN_ATTENTION) / (seen[1][:, : len(text)] + MIN_ATTENTION))
    chunks = [chunk for chunk in reader.chunks if chunk.stop <= stop]
    assert len(chunks) > 1
    for chunk in chunks:
        last = chunk.stop + (N_OVERLAP if chunk.stop == stop else 0)
        of_cells = np.sort(ratio[:, 5 + chunk.start : 5 + last], axis=1)[:, -N_CELLS:].mean(axis=1)
        deviation = np.mean([(of_cells[i] - head.mean) / head.std for i, head in enumerate(HEADS[:2])])
        assert chunk.relevance == pytest.approx(1 / (1 + np.exp(-SLOPE * (deviation - MIDDLE))), rel=0.02)
        assert chunk.is_skimmed


def test_windows_are_evaluated_as_deep_as_they_are_looked_at(tiny_model, monkeypatch):
    depths = []
    set_depth = native.set_n_layer_eval
    monkeypatch.setattr(native, "set_n_layer_eval", lambda ctx, n: (depths.append(n), set_depth(ctx, n)))
    skim(tiny_model(SPEC), make_prompt(1000), Skimming(QueryHeads(HEADS, NEUTRAL)))
    assert depths == [2, 0]
    depths.clear()
    skim(tiny_model(SPEC), make_prompt(1000), Skimming(Guess()))
    assert depths == []


def test_the_first_layers_leave_nothing(tiny_model):
    """Also after an error: the next text is evaluated whole."""
    with Context(tiny_model(SPEC), n_ctx=512) as c, Context(tiny_model(SPEC), n_ctx=512) as stock:
        cache = KVCache(c.ctx)
        with suppress(ZeroDivisionError), cache.first_layers(1):
            cache.read(range(50))
            assert not cache.has_logits
            raise ZeroDivisionError
        assert cache.n_cells == cache.sequence.n_cells == 0
        cache.read(range(50))
        assert stock.decode(list(range(50)), 0) == 0
        assert cache.logits.tobytes() == stock.logits.tobytes()
        with pytest.raises(DapqError, match="layers"), cache.first_layers(99):
            pass
        cache.read([1])
        assert cache.has_logits


def matches(scores, coverage):
    return Matches(np.array(scores, dtype=np.float32), np.array(coverage, dtype=np.float32))


def test_reading_stops_when_it_knows(tiny_model):
    """The window whose words match comes first; the others are not read, and that is counted."""
    prompt, asked = make_prompt(6000), []

    def search(question, texts):
        asked.append((question, texts))
        wanted = [float(i == len(texts) - 1) for i in range(len(texts))]
        return matches(wanted, wanted)

    # a chunk answers whatever is in it
    sure = QueryHeads([QueryHead(1, 2, 2.0, -99, 1)], NEUTRAL)
    reader = skim(tiny_model(SPEC), prompt, Skimming(sure, search, may_stop=True))
    ((question, texts),) = asked
    assert question == window_of(prompt).asking
    starts = [max(0, chunk.start - N_OVERLAP) for chunk in reader.chunks]
    assert [prompt.body[i : i + len(text)] for i, text in zip(starts, texts, strict=True)] == texts
    n_read, n_all = reader.n_windows
    assert n_read == 1 < n_all
    last = excerpts([6000], reader.plan.n_window)[-1].chunks[0]
    assert [chunk.is_skimmed for chunk in reader.chunks] == [chunk.start >= last.start for chunk in reader.chunks]
    assert not any(chunk.relevance for chunk in reader.chunks if not chunk.is_skimmed)
    assert reader.chunks[-1].is_read
    assert reader.n_done < 2000

    # nothing is clear: all is read, in the order of the words
    unsure = QueryHeads([QueryHead(1, 2, 2.0, 99, 1)], NEUTRAL)
    reader = skim(tiny_model(SPEC), prompt, Skimming(unsure, search, may_stop=True))
    assert reader.n_windows == (n_all, n_all)
    # what has all words is chosen all the same
    assert reader.chunks[-1].relevance == max(chunk.relevance for chunk in reader.chunks) == pytest.approx(BY_WORDS)
    assert reader.chunks[-1].is_read
    assert all(chunk.is_skimmed for chunk in reader.chunks)


def test_the_drop_in_stops_and_says_so(tiny_model):
    spec = Spec(n_ctx=8192)
    profile = replace(random_profile(spec), query=(QueryHead(1, 2, 2.0, -99, 1),))
    # the tiny vocabulary has no token for blanks
    text = "\n\n".join(f"The-clerk-counted-crate-{i}-and-the-gulls." for i in range(150))
    prompt = f"{text}\n\nWhat-the-code-of-the-vault-is:-4817.\n\n{text}\n\nWhat-is-the-code-of-the-vault?"
    for mode in ("auto", "all"):
        with opened(tiny_model(spec), kv_budget=200, n_ctx=32768, heads=profile, skim=mode) as llama:
            llama.create_completion(prompt, max_tokens=1)
            n_read, n_all = llama.usage.n_windows
            assert (n_read < n_all) == (mode == "auto")
            if mode == "auto":
                kept = "".join(text for text, share in llama.kept() if share > 0)
                assert "vault" in kept
    with pytest.raises(UsageError, match="some: choose of auto, all"), opened(tiny_model(spec), skim="some"):
        pass


def test_a_profile_of_another_model(tiny_model):
    wrong = replace(random_profile(SPEC), query=(QueryHead(0, 99, 2.0, 0, 1),))
    with pytest.raises(DapqError, match="of another model"), opened(tiny_model(SPEC), heads=wrong):
        pass


def test_the_best_heads():
    """Those whose evidence stands out in the right chunk, in the first layers only."""
    rng = np.random.default_rng(0)
    names = [(layer, head) for layer in range(4) for head in range(3)]
    judged = []
    for right in range(8):
        values = rng.normal(5, 2, (12, 8)).astype(np.float32)
        values[[1, 7, 10], right] += [30, 15, 99]
        judged.append(Judged(values, right))
    found = best_heads(judged, names, 3)
    assert [(head.layer, head.head) for head in found[:2]] == [(0, 1), (2, 1)]
    assert all(head.layer < 3 for head in found)
    others = np.concatenate([np.delete(case.evidence[1], case.right) for case in judged])
    assert (found[0].mean, found[0].std) == pytest.approx((others.mean(), others.std()), rel=1e-5)
    assert found[0].score > found[1].score > 1 > found[2].score


DOCUMENTS = {
    "numbers": " ".join(map(str, range(2000))),
    "punctuation": "... !!! ??? --- " * 500,
    "one line of base64": base64.b64encode(bytes(range(256)) * 20).decode(),
    "the question in every chunk": "What-is-the-code-of-the-vault?" * 300,
}


@pytest.mark.parametrize("question", ["What-is-the-code-of-the-vault?", "?!", " "])
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_what_words_cannot_order_is_read_whole(tiny_model, document, question):
    spec = Spec(n_ctx=32768)
    profile = replace(random_profile(spec), query=(QueryHead(1, 2, 2.0, 0, 1),))
    engine = open_model(tiny_model(spec), heads=profile, n_threads=1)
    prompt = chat_prompt(engine.model, document, question)
    stats = engine.read(prompt, get_policy("fused"), Cells(300), n_predict=4)
    assert len(prompt) > 3 * 300
    n_read, n_all = stats.n_windows
    # without a question there is nothing to skim for: it is read in one pass
    assert n_read == n_all
    assert (n_all > 1) == (question != " ")
    assert list(engine.stream(4))
    engine.close()
