"""Citing: the attention while an answer was written, against a plain computation, before and after an eviction."""

import numpy as np
import pytest
from helpers.context import Context
from helpers.profiles import random_profile
from helpers.reading import make_prompt
from helpers.tiny import Spec, forward
from helpers.tokens import random_tokens

from dapq_edge import get_policy, open_model
from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.eviction.budget import Cells
from dapq_edge.llamacpp.native import ProbeType
from dapq_edge.reading import citations
from dapq_edge.reading.citations import N_TOGETHER, cite, strongest
from dapq_edge.reading.citing import N_CITED, attention_of
from dapq_edge.reading.relevance import N_BEST

SPEC = Spec(n_ctx=2048)
PROFILE = random_profile(SPEC)


def best_heads(profile, largest):
    """Layer and head of those that count: by the profile, or by the attention of each, [layer, head, token]."""
    scores = np.stack(list(profile.retrieval.values())) if profile else largest.max(axis=2)
    return list(zip(*np.unravel_index(np.argsort(scores, axis=None)[-N_BEST:], scores.shape), strict=True))


@pytest.mark.parametrize("profile", [PROFILE, None])
@pytest.mark.parametrize("written", [range(300, 312), range(300, 400)])
def test_attention_while_it_was_written(tiny_model, profile, written):
    tokens = random_tokens(420, 3)
    attention, _ = forward(SPEC, tokens, list(range(420)), "f16", "f16")
    with Context(tiny_model(SPEC), n_ctx=1024) as c:
        cache = KVCache(c.ctx)
        cache.read(tokens)
        before = c.state()
        seen = attention_of(cache, profile, written)
        assert c.state() == before
    last = written.stop - 1
    first = max(written.start - 1, last - N_CITED)
    largest = attention[:, :, first:last].max(axis=2)
    # what was written later is hidden, and so are the queries themselves
    largest[:, :, first:] = 0
    expected = np.mean([largest[layer, head] for layer, head in best_heads(profile, largest)], axis=0)
    assert not seen[first:].any()
    np.testing.assert_allclose(seen[:first], expected[:first], atol=0.02 * expected.max())


@pytest.mark.parametrize("heads", [None, PROFILE], ids=["even", "uneven"])
def test_cells_are_free_behind_an_answer(tiny_model, heads):
    """Also behind one of as many tokens as may be."""
    engine = open_model(tiny_model(Spec(n_ctx=8192)), heads=heads, n_threads=1)
    engine.read(make_prompt(2000), get_policy("fused"), Cells(256), n_predict=256)
    list(engine.stream(256))
    assert engine.cache.allocated[0] - engine.cache.n_cells >= N_CITED
    engine.close()


def test_cells_are_tokens_again_after_an_eviction(tiny_model):
    """Each head attends only to the tokens that it kept, wherever their cells are."""
    tokens, rng = random_tokens(330, 3), np.random.default_rng(0)
    with Context(tiny_model(SPEC), n_ctx=1024) as c:
        cache = KVCache(c.ctx)
        cache.read(tokens[:200])
        heads = cache.gathered_heads()
        sizes = [60 + 10 * i for i in range(len(heads))]
        keep = [
            np.stack([np.sort(rng.choice(200, size, replace=False)) for _ in range(n)])
            for size, n in zip(sizes, heads.values(), strict=True)
        ]
        cache.evict(keep)
        cache.read(tokens[200:])
        seen = attention_of(cache, PROFILE, range(310, 320))
        kept = dict(zip(heads, keep, strict=True))
        layers = {layer.layer: layer for layer in cache.probe(tokens[309:319], 309, ProbeType.MAX)}
    expected = np.zeros(330)
    for layer, head in best_heads(PROFILE, None):
        il = list(heads)[layer]
        attention = layers[il].attention[head]
        held = kept[il][head * len(kept[il]) // len(layers[il].attention)]
        row = np.concatenate([held, np.arange(200, 330)])
        expected[row] += attention[len(attention) - len(row) :] / N_BEST
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    assert 0 < np.count_nonzero(seen[:200]) < 200


def test_what_was_evicted_is_not_seen(tiny_model):
    with Context(tiny_model(SPEC), n_ctx=512) as c:
        cache = KVCache(c.ctx)
        cache.read(random_tokens(200, 3))
        cache.evict([np.tile(np.arange(150, 200), (n, 1)) for n in cache.gathered_heads().values()])
        cache.read(random_tokens(20, 4))
        assert not attention_of(cache, PROFILE, range(190, 200)).any()
        assert not attention_of(cache, PROFILE, range(0)).any()
        assert attention_of(cache, PROFILE, range(205, 215)).any()


def test_full_context_is_not_probed_beyond_its_cells(tiny_model):
    with Context(tiny_model(SPEC), n_ctx=256) as c:
        cache = KVCache(c.ctx)
        cache.read(random_tokens(250, 3))
        assert attention_of(cache, PROFILE, range(230, 250)).any()
        cache.read(random_tokens(6, 4))
        assert not attention_of(cache, PROFILE, range(230, 250)).any()


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ({50: 0.5}, (50, 0.5)),
        # many that are read together count more than one elsewhere
        ({5: 0.5, 50: 0.3, 52: 0.4, 54: 0.2}, (52, 0.4)),
        ({0: 0.5}, (0, 0.5)),
        ({99: 0.5}, (99, 0.5)),
        ({}, (0, 0.0)),
    ],
)
def test_strongest(peaks, expected):
    seen = np.zeros(100, dtype=np.float32)
    for token, weight in peaks.items():
        seen[token] = weight
    assert strongest(seen) == pytest.approx(expected)
    assert strongest(seen[: N_TOGETHER // 2]) == pytest.approx(
        max(((t, w) for t, w in peaks.items() if t < N_TOGETHER // 2), default=(0, 0.0))
    )


def test_passages_of_pages(tiny_model):
    """Only what is on a page is cited, and a passage ends where its page does."""
    document = "One thing here. Another thing there"
    pieces = [
        b"<s>",
        *(word.encode() for word in (" One", " thing", " here.", " Another", " thing", " there", "\nWhy?")),
    ]
    answer = [b" So", b" it", b" is.", b" Indeed"]
    with Context(tiny_model(SPEC), n_ctx=512) as c:
        cache = KVCache(c.ctx)
        cache.read(random_tokens(len(pieces) + len(answer), 5))
        found = cite(cache, None, [*pieces, *answer], len(pieces), document, [(16, 29)])
        everywhere = cite(cache, None, [*pieces, *answer], len(pieces), document)
        nowhere = cite(cache, None, [*pieces, *answer], len(pieces), "Another text")
    assert nowhere == []
    assert [cited.sentence for cited in everywhere] == [(0, 9), (10, 16)]
    assert {document[cited.start : cited.stop] for cited in found} == {"Another thing"}
    assert all(0 < cited.weight <= 1 for cited in found + everywhere)
    for cited in everywhere:
        quote = document[cited.start : cited.stop]
        assert quote in ("One thing here.", "Another thing there")
        assert b"".join(pieces[cited.tokens.start : cited.tokens.stop]).decode().strip() == quote


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        # tokens of the prompt: the second one is the first of "One thing here."
        ({2: 0.6}, ["One thing here."]),
        ({2: 0.6, 5: 0.29}, ["One thing here."]),
        ({2: 0.6, 5: 0.31}, ["One thing here.", "Another thing there."]),
        ({2: 0.35, 6: 0.6}, ["Another thing there.", "One thing here."]),
        # more of the same passage, and no third one
        ({2: 0.6, 3: 0.5}, ["One thing here."]),
        ({2: 0.6, 5: 0.5, 8: 0.4}, ["One thing here.", "Another thing there."]),
        ({2: 0.09}, []),
    ],
)
def test_a_sentence_that_was_put_together_has_two_passages(monkeypatch, peaks, expected):
    document = "One thing here. Another thing there. More of it."
    pieces = [b"<s>", *(f" {word}".encode() for word in document.split()), b"\nWhy?", b" So", b" it", b" is."]
    seen = np.zeros(len(pieces), dtype=np.float32)
    seen[list(peaks)] = list(peaks.values())
    monkeypatch.setattr(citations, "attention_of", lambda cache, heads, written: seen.copy())
    found = cite(None, None, pieces, len(pieces) - 3, document)
    assert [document[cited.start : cited.stop] for cited in found] == expected
    assert {cited.sentence for cited in found} <= {(0, 9)}
    for cited in found:
        assert cited.weight == seen[cited.tokens.start : cited.tokens.stop].max()


def test_what_a_sliding_window_has_left_is_not_seen(tiny_model):
    """A probe would need the cells of the window before it."""
    spec = Spec(arch="gemma2", n_layer=4, n_ctx=4096)
    with Context(tiny_model(spec), n_ctx=4096) as c:
        cache = KVCache(c.ctx)
        for i in range(8):
            cache.read(random_tokens(256, i))
        assert not attention_of(cache, None, range(300, 310)).any()
        assert attention_of(cache, None, range(2030, 2040)).any()
