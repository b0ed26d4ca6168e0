"""Evaluation of sources on tiny models: what is cited, and what tells that a fact is not there."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.profiles import random_profile
from helpers.tiny import Spec

from dapq_edge import open_model
from dapq_edge.calibration.questions import Question
from dapq_edge.chat.sources import Source
from dapq_edge.errors import DapqError
from dapq_edge.evaluation import citations
from dapq_edge.evaluation.absent import Group, absent_rows
from dapq_edge.evaluation.citations import citations_rows
from dapq_edge.evaluation.made import made_document, made_questions
from dapq_edge.evaluation.results import Results
from dapq_edge.eviction.heads import QueryHead
from dapq_edge.eviction.policies import get_policy
from dapq_edge.reading.citations import Citation
from dapq_edge.reading.order import BY_WORDS
from dapq_edge.reading.stats import MIN_FOUND

SPEC = Spec(n_ctx=8192)
TEXT = "".join(f"The-gulls-over-quay-{i}-wait-for-a-boat. " for i in range(400))
QUESTIONS = [
    Question(f"What-was-the-code-of-vault-{name}-is-known:-{code}.", f"What-was-the-code-of-vault-{name}?", code)
    for name, code in (("north", "4817"), ("south", "2264"), ("west", "9035"))
]


@pytest.fixture
def engine(tiny_model):
    engine = open_model(tiny_model(SPEC), n_threads=1)
    yield engine
    engine.close()


@pytest.fixture
def blind(tiny_model):
    """An engine whose heads see nothing, so that only words count."""
    profile = replace(random_profile(SPEC), query=(QueryHead(1, 2, 2.0, 99, 1),))
    engine = open_model(tiny_model(SPEC), heads=profile, n_threads=1)
    yield engine
    engine.close()


def absent(engine, results=None, n_questions=4, half="all", length=1200, **group):
    groups = [Group("the fact's", QUESTIONS, {"": TEXT}, **group)]
    results = Results() if results is None else results
    options = {"policy": get_policy("fused"), "n_questions": n_questions, "half": half}
    return absent_rows(engine, groups, [length], results, **options)


def test_words_tell_what_is_not_there(blind):
    rows = absent(blind, others=[question.fact for question in [*QUESTIONS[1:], QUESTIONS[0]]])
    assert [row["fact"] for row in rows] == ["there"] * 4 + ["absent"] * 4 + ["another"] * 4
    for row in rows:
        assert row["top_relevance"] == sorted(row["top_relevance"], reverse=True)
        assert (row["relevance"], row["coverage"]) == (row["top_relevance"][0], row["top_coverage"][0])
        assert row["coverage"] <= row["coverage_most"] <= 1
        assert row["is_said"] == (row["relevance"] < MIN_FOUND)
        if row["fact"] == "there":
            assert row["coverage"] == pytest.approx(1)
            assert row["relevance"] == pytest.approx(BY_WORDS)
        else:
            assert row["coverage_most"] < 0.9
    missed = [row["coverage_most"] for row in rows if row["fact"] == "absent"]
    beside = [row["coverage_most"] for row in rows if row["fact"] == "another"]
    assert max(missed) < min(beside)
    assert all(row["is_said"] for row in rows if row["fact"] == "absent")


def test_a_half_is_what_it_is_in_the_whole(blind):
    whole = absent(blind)
    parts = {half: absent(blind, half=half) for half in ("choose", "report")}
    for half, rows in parts.items():
        assert rows == [row for row in whole if row["half"] == half]
    assert [row["question"] for row in parts["report"]] == [1, 1]
    # the fourth prompt asks the first question again, with its fact elsewhere
    assert [row["question"] for row in parts["choose"]] == [0, 2, 3] * 2


def test_absent_rows_are_kept(blind, tmp_path):
    path = tmp_path / "rows.jsonl"
    first = absent(blind, Results(path), n_questions=1)
    size = path.stat().st_size
    assert absent(blind, Results(path), n_questions=1) == first
    assert path.stat().st_size == size
    assert len(absent(blind, Results(path), n_questions=2)) == 4
    assert len(Results(path).rows) == 4
    with pytest.raises(DapqError, match="too short for 99,999 tokens"):
        absent(blind, length=99999)


def cite(engine, document, questions, asked, results=None):
    policy, results = get_policy("fused"), Results() if results is None else results
    return citations_rows(engine, document, questions, asked, policy, "200", results, n_predict=4)


@pytest.fixture
def pages():
    rng = np.random.default_rng(0)
    questions = made_questions(rng)[:4]
    return made_document(TEXT, questions, rng), questions


def test_citations_of_a_model_that_knows_nothing(engine, pages, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = cite(engine, *pages, [2, 0], Results(path))
    assert [row["question"] for row in rows] == [2, 0]
    for row in rows:
        assert not row["is_right"]
        assert "right_page" not in row
        assert row["n_invented"] == 0
        assert 0 < row["citing"] < 1
    size = path.stat().st_size
    assert cite(engine, *pages, [2, 0], Results(path)) == rows
    assert path.stat().st_size == size


@pytest.mark.parametrize(
    ("page", "quotes_fact", "sentence", "right_page", "right_quote", "n_invented"),
    [
        (1, True, 0, True, True, 0),
        (1, False, 0, True, False, 0),
        (0, True, 0, False, True, 1),
        # the source of another sentence
        (1, True, 1, False, False, 0),
    ],
)
def test_sources_of_a_right_answer(
    engine, pages, monkeypatch, page, quotes_fact, sentence, right_page, right_quote, n_invented
):
    document, questions = pages
    first = f"It was {questions[1].answer}."
    answer = f"{first} I am sure."
    places = (0, len(first)), (len(first) + 1, len(answer))
    quote = questions[1].fact if quotes_fact else document.text_of(document.pages[page])[:20]
    source = Source(1, document.pages[page], quote, Citation(places[sentence], 0, 1, range(0, 1), 1.0))
    monkeypatch.setattr(engine, "stream", lambda n_predict: iter([answer]))
    monkeypatch.setattr(citations, "find_sources", lambda engine, document: [source])
    (row,) = cite(engine, document, questions, [1])
    assert row["is_right"]
    assert row["n_cited"] == (sentence == 0)
    assert (row["right_page"], row["right_quote"], row["n_invented"]) == (right_page, right_quote, n_invented)
    # its words stand on no other page
    assert row["bm25_page"]
