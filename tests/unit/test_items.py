"""Lines of an answer, without bullets, and when two of them are the same."""

import pytest

from dapq_edge.reading.items import items_of, key_of, repeats


@pytest.mark.parametrize(
    ("answer", "items"),
    [
        ("1. The Ada\n2. The Bee\n", ["The Ada", "The Bee"]),
        ("- The Ada\n* The Bee\n• The Cod", ["The Ada", "The Bee", "The Cod"]),
        ("a) The Ada\n(2) The Bee", ["The Ada", "The Bee"]),
        ("1. 1. 1. The Ada", ["The Ada"]),
        ("The Ada", ["The Ada"]),
        ("Here are the ships:\n\n- The Ada", ["The Ada"]),
        ("What did they load:", ["What did they load:"]),
        ("The Ada\nthe  ada.\n**The Ada**", ["The Ada"]),
        ("1939: the war began", ["1939: the war began"]),
        ("3.5 tons of coal", ["3.5 tons of coal"]),
        ("A. Smith", ["A. Smith"]),
        ("- 1575\n- 1576", ["1575", "1576"]),
        ("1.\n2.\n3.", []),
        ("", []),
    ],
)
def test_lines(answer, items):
    assert items_of(answer) == items


@pytest.mark.parametrize(
    "answer",
    [
        "none",
        "None.",
        "- N/A",
        "Not mentioned.",
        "There are no ships.",
        "The text does not mention any ship.",
        "The text above doesn't say it.",
        "Keine",
        "Aucune.",
        "Ninguno",
    ],
)
def test_nothing(answer):
    assert items_of(answer) == []


@pytest.mark.parametrize(
    "answer", ["None but the brave went to sea", "No ship left the harbour", "Nothing Hill", "Nobody"]
)
def test_something(answer):
    assert items_of(answer) == [answer]


def test_what_says_the_question_again_is_left_out():
    request = "List all ships of 1575. Answer from the text above only."
    assert items_of("List all ships of 1575\nThe Ada\n1575", request) == ["The Ada", "1575"]


def test_equal_lines():
    ligature = "The \ufb01rst"
    assert key_of("2) The  FIRST!") == key_of("- the first") == key_of(ligature) == "the first"
    assert key_of("The first") != key_of("The second")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("1. Ada\n2. Ada\n", True),
        ("1. Ada\n2. Ada", False),
        ("1. Ada\n2. Bee\n3. ADA.\n", True),
        ("1. Ada\n\n2. Bee\n\n", False),
        ("1.\n2.\n", True),
        ("", False),
    ],
)
def test_going_round(answer, expected):
    assert repeats(answer) is expected
