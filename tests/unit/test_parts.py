"""The parts of a prompt: what is pinned of them, and what stands around a window. A token is its own number."""

import pytest

from dapq_edge.prompt import QUESTION, Kind, Part, Prompt, Table
from dapq_edge.prompt.pins import fit
from dapq_edge.prompt.window import ending_of, window_of

SEPARATOR = (900, 901)


def make(*parts, question=None, tables=()):
    """Parts are pairs of a kind and a number of tokens, and a level and an age if they have one."""
    made, place = [], 0
    for kind, n, *rest in parts:
        level, age = (*rest, 0, 0)[:2]
        made.append(Part(Kind(kind), place, place + n, level, age))
        place += n
    tokens = list(range(place))
    return Prompt(tokens, tuple(made), question, tuple(tables), SEPARATOR)


PLAIN = make(("frame", 4), ("document", 100), ("request", 10, QUESTION), ("end", 3), question=range(106, 114))
FIRST = make(("frame", 4), ("request", 10, QUESTION), ("document", 100), ("end", 3), question=range(6, 14))
THANKS = make(("frame", 4), ("document", 100), ("request", 20, QUESTION), ("end", 3), question=range(106, 114))
TURNS = make(
    ("frame", 2), ("system", 8), ("frame", 4), ("request", 5, 1, 1), ("document", 100, 0, 1), ("frame", 3),
    ("answer", 6), ("frame", 3), ("request", 7, QUESTION), ("end", 3), question=range(131, 138),
)  # fmt: skip


def test_a_window_of_the_plain_layout_is_what_stands_there():
    window = window_of(PLAIN)
    assert window.head == [0, 1, 2, 3]
    assert window.tail == list(range(104, 117))
    assert window.tail[-window.n_asking :] == list(range(106, 117))
    assert ending_of(PLAIN) == [114, 115, 116]


@pytest.mark.parametrize("prompt", [FIRST, THANKS])
def test_the_question_comes_last(prompt):
    question, end = [prompt.tokens[i] for i in prompt.question], prompt.end
    window = window_of(prompt)
    assert window.head == [0, 1, 2, 3]
    assert window.tail[-window.n_asking :] == question + end
    assert ending_of(prompt) == [*SEPARATOR, *question, *end]
    # what is asked stands before it, too
    assert (window.tail[: -window.n_asking] == [*range(104, 124), *SEPARATOR]) == (prompt is THANKS)


def test_a_window_of_a_conversation():
    """The system message before it; older requests, the last answer and the new question behind it."""
    window = window_of(TURNS)
    assert window.head == list(range(14))
    assert window.tail == [*SEPARATOR, *range(14, 19), *range(119, 141)]
    assert window.n_asking == 7 + 3


def test_what_is_asked_is_bounded():
    prompt = make(("frame", 4), ("document", 500), ("request", 400, QUESTION), ("end", 3), question=range(890, 904))
    window = window_of(prompt)
    assert window.tail[-window.n_asking :] == list(range(890, 907))
    assert len(window.tail) == 128 + 14 + 3


@pytest.mark.parametrize(
    ("n_most", "pinned", "n_unpinned"),
    [
        (40, [*range(2, 10), *range(14, 19), *range(131, 138)], 0),
        # the older request has less room
        (17, [*range(2, 10), *range(17, 19), *range(131, 138)], 0),
        (15, [*range(2, 10), *range(131, 138)], 0),
        # what has no room anyway leaves more to the document: half, and of that a quarter for the system message
        (14, [2, *range(132, 138)], 7 + 1),
        (1, [], 8 + 7),
    ],
)
def test_pinned_within(n_most, pinned, n_unpinned):
    prompt = fit(TURNS, n_most)
    assert prompt.pinned.tolist() == pinned
    assert prompt.n_unpinned == n_unpinned
    assert [part.start for part in prompt.parts[1:]] == [part.stop for part in prompt.parts[:-1]]
    assert sorted([*prompt.pinned, *prompt.body_index]) == sorted({*prompt.pinned, *prompt.body_index})


def test_tables_within():
    table, other = Table(14, 24, 60), Table(60, 65, 104)
    prompt = make(
        ("frame", 4), ("document", 100), ("request", 10, QUESTION), ("end", 3), question=range(104, 114),
        tables=(table, other),
    )  # fmt: skip
    assert fit(prompt, 40).tables == (table, other)
    assert fit(prompt, 18).tables == (other,)
    assert fit(prompt, 12).tables == ()
    prompt = fit(prompt, 40)
    assert prompt.header_of(0) == prompt.header_of(15) == []
    assert prompt.header_of(30) == list(range(14, 24))
    assert {14, 23, 60, 64} <= set(prompt.pinned.tolist())
