"""The questions that come with the package: in other words than their facts."""

import re
from collections import Counter

import pytest

from dapq_edge.calibration.questions import BUILT_IN, read_questions, read_texts
from dapq_edge.errors import DapqError

KINDS = {"fact", "reason", "number", "person", "place", "how-to"}
HALVES = {half: read_questions(BUILT_IN / f"{half}.jsonl") for half in ("calibrate", "test")}
EVERY = [question for half in HALVES.values() for question in half]

# words that say nothing of a subject
FUNCTION_WORDS = set(
    """a about after all also alone always an and another any are as at be because been before behind being beneath
    between both but by can case come comes could did do does down each every find first for from get go goes had has
    have he her him his how i if in into is it its last made make many may might more most much must my need never no
    nobody none not of off on once one only onto or other our out over own per put said say see several she should so
    some something still such than that the their them then there these they thing this those three through to too
    two under until up us was way we were what when where which while who whom whose why will with without would you
    your""".split()  # noqa: SIM905
)


def content(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower().replace("'s", ""))) - FUNCTION_WORDS


@pytest.mark.parametrize("question", EVERY, ids=lambda question: question.question[:30])
def test_no_content_word_is_shared(question):
    asked, fact = content(question.question), content(question.fact)
    assert not asked & fact
    # nor the stem of a long word
    assert not {word[:5] for word in asked if len(word) > 5} & {word[:5] for word in fact if len(word) > 5}
    assert question.answer in question.fact


def test_they_are_of_all_kinds_and_styles():
    assert len({question.question for question in EVERY}) == len({question.fact for question in EVERY}) == 66
    assert set(read_texts(BUILT_IN)) == {question.style for question in EVERY}
    for half in HALVES.values():
        assert len(half) == 33
        assert set(Counter(question.kind for question in half)) == KINDS
        assert set(Counter(question.style for question in half).values()) == {11}


def test_no_text_answers_by_itself():
    every = " ".join(read_texts(BUILT_IN).values())
    assert not [question.answer for question in EVERY if len(question.answer) > 12 and question.answer in every]


@pytest.mark.parametrize(
    "line", ["", "{}", '{"fact": "a", "question": "b"}', '{"fact": "a", "question": 1, "answer": "a"}']
)
def test_bad_questions(tmp_path, line):
    path = tmp_path / "questions.jsonl"
    path.write_text(line)
    with pytest.raises(DapqError, match="questions"):
        read_questions(path)
    with pytest.raises(DapqError, match=r"no \*\.txt"):
        read_texts(tmp_path)
