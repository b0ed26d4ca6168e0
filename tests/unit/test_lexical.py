"""Lexical search: words of any script, and what a question shares with texts."""

import numpy as np
import pytest

from dapq_edge.reading.lexical import match, words
from dapq_edge.reading.order import BY_WORDS, combined, is_enough, reading_order


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Straße No. 12", ["strasse", "no", "12"]),
        ("snake_case it's", ["snake", "case", "it", "s"]),
        ("猫はどこ", ["猫は", "はど", "どこ"]),
        ("猫 cat", ["猫", "cat"]),
        ("где кот?", ["где", "кот"]),
        ("... !?", []),
        ("A" * 200_000, ["a" * 64]),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_what_a_question_shares():
    found = match("Where is the red cat?", ["the dog is here", "a red cat sat", "the the the", ""])
    assert found.scores.argmax() == 1
    assert found.scores[3] == found.coverage[3] == 0
    # rare words count more, and one that stands nowhere most
    assert 0.3 < found.coverage[1] < 0.5
    assert found.coverage[1] > 2 * found.coverage[2] > 0
    assert match("red cat", ["a red cat", "b", "c"]).coverage.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("question", "texts"), [("", ["a"]), ("?!", ["a", "b"]), ("a", ["", "..."]), ("a", ["0" * 99])]
)
def test_nothing_is_shared(question, texts):
    found = match(question, texts)
    assert found.scores.tolist() == found.coverage.tolist() == [0] * len(texts)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([], []), ([0, 0, 0], [0, 1, 2]), ([1, 5, 3], [1, 2, 0]), ([4.9, 1, 5], [0, 2, 1]), ([0, 0, 2], [2, 0, 1])],
)
def test_windows_with_most_words_come_first(scores, expected):
    assert reading_order(scores) == expected


FOUND = match("red cat", ["a red cat", "b", "one cat", "c", "d"])


@pytest.mark.parametrize(
    ("relevance", "is_read", "expected"),
    [
        ([0.9, 0, 0, 0, 0], [1, 0, 0, 0, 0], True),
        # it is not clearly relevant
        ([0.05, 0, 0, 0, 0], [1, 0, 0, 0, 0], False),
        # it lacks words
        ([0.1, 0.9, 0, 0, 0], [1, 1, 0, 0, 0], False),
        ([0, 0, 0.9, 0, 0], [0, 0, 1, 0, 0], False),
        # no chunk was read
        ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0], False),
    ],
)
def test_when_reading_stops(relevance, is_read, expected):
    assert is_enough(np.array(relevance), np.array(is_read, dtype=bool), FOUND) is expected


def test_words_count_if_nearly_all_are_there():
    relevance = combined(np.array([0.5, 0.5, 0.5, 0, 1]), FOUND)
    assert FOUND.coverage[2] < 0.5
    assert relevance.tolist() == pytest.approx([1 - 0.5 * (1 - BY_WORDS), 0.5, 0.5, 0, 1])


def test_reading_goes_on_while_something_is_as_near():
    found = match("red cat", ["a red cat", "one red cat", "c", "d", "e"])
    relevance, one, both = np.array([0.9, 0, 0, 0, 0]), [True, False, False, False, False], [True, True] + [False] * 3
    assert not is_enough(relevance, np.array(one), found)
    assert is_enough(relevance, np.array(both), found)
