"""Answers of windows become one list: equal items are one, with all pages that they are from."""

from dataclasses import dataclass

import pytest

from dapq_edge.chat.joined import Joined, covering
from dapq_edge.documents.document import Document, Page, join
from dapq_edge.prompt import Prompt
from dapq_edge.reading.whole import WindowAnswer

HEAD, TAIL = [ord("<")] * 4, [ord(">")] * 3


@dataclass(frozen=True)
class Characters:
    """A model whose tokens are characters."""

    def pieces(self, tokens):
        return [chr(token).encode() for token in tokens]


def joined(document, question="", **options):
    prompt = Prompt.of(HEAD, [ord(c) for c in document.text], TAIL)
    return Joined(Characters(), prompt, document, question, **options)


def answer(start, stop, text):
    return WindowAnswer(range(start, stop), text, False, False, 0)


@pytest.fixture
def document():
    """Pages of 20 characters, three between two of them."""
    return Document.of("log.pdf", [(f"p. {i}", f"page{i} " + "abcdefghijklmn") for i in range(1, 6)], "\n-\n")


def places(item):
    return [page.label for page in item.pages]


def test_equal_items_are_one(document):
    found = joined(document)
    assert [item.text for item in found.add(answer(0, 20, "- The Ada\n- The Bee"))] == ["The Ada", "The Bee"]
    assert [item.text for item in found.add(answer(23, 43, "1. the bee.\n2. The Cod"))] == ["The Cod"]
    assert found.add(answer(46, 66, "none")) == []
    assert [(item.text, places(item), item.windows) for item in found.items] == [
        ("The Ada", ["p. 1"], [1]),
        ("The Bee", ["p. 1", "p. 2"], [1, 2]),
        ("The Cod", ["p. 2"], [2]),
    ]


def test_pages_of_a_window(document):
    """A page that has all words of an item is its page; if none has any, it may be from any of the window."""
    found = joined(document)
    found.add(answer(10, 60, "Page2\nThe Ada"))
    assert [places(item) for item in found.items] == [["p. 2"], ["p. 1", "p. 2", "p. 3"]]
    # between two pages
    found.add(answer(43, 46, "The Bee"))
    assert places(found.items[-1]) == []


@pytest.mark.parametrize(
    ("said", "texts", "expected"),
    [
        # each that has all of it
        ("the ada sails", ["the ada sails", "the bee", "ada the sails"], [0, 2]),
        # "ship" stands nowhere, and counts for nothing
        ("the ship ada", ["the ada", "the bee"], [0]),
        # two pages, of which the first has no more than the second
        ("the ada sails east", ["the ada", "the bee", "ada sails east"], [0, 2]),
        # four of five words are most of them
        ("the ada sails far east", ["the", "the ada sails far", "east"], [1]),
        # three of four are not
        ("the ada sails east", ["the bee", "the ada sails", "east"], [1, 2]),
        # the fewest, not the first ones
        ("a b c d e f", ["a b", "b c", "a b c", "d e", "d e f"], [2, 4]),
        ("the ship", ["a", "b"], [0, 1]),
        ("", ["a", "b"], [0, 1]),
        ("the ship", [], []),
    ],
)
def test_the_fewest_pages_that_have_the_words(said, texts, expected):
    assert covering(set(said.split()), [set(text.split()) for text in texts]) == expected


def test_an_item_that_goes_over_a_border_has_the_pages_of_its_words():
    pages = ["The gulls cry. The library of", "Ashford was opened in 1834.", "The clerk counted crates."]
    document = Document.of("log.pdf", [(f"p. {i}", text) for i, text in enumerate(pages, start=1)], "\n")
    found = joined(document)
    found.add(answer(0, len(document.text), "Library of Ashford, opened in 1834\nThe clerk"))
    assert [places(item) for item in found.items] == [["p. 1", "p. 2"], ["p. 3"]]
    # of a page that goes on, only what the window has is looked at
    found = joined(document)
    found.add(answer(0, 15, "The library"))
    found.add(answer(15, 70, "gulls, clerk"))
    assert [places(item) for item in found.items] == [["p. 1"], ["p. 3"]]


def test_items_that_are_not_in_their_window_are_left_out():
    """A model lists what it knows, where a window has nothing that was asked for."""
    text = "The library of Ashford was opened in 1834. The gulls cry. The library of Marlow was opened in 1901."
    found = joined(Document.of("a.txt", [("", text)], ""), is_copied=True)
    said = "Library of Ashford: opened in 1834\nThe library of Marlow was opened in 1901\nThe iPhone 12\nnone"
    assert [item.text for item in found.add(answer(0, 60, said))] == ["Library of Ashford: opened in 1834"]
    assert found.n_left_out == 2
    assert [item.text for item in found.add(answer(60, len(text), said))] == [
        "The library of Marlow was opened in 1901"
    ]


def test_coverage(document):
    found = joined(document)
    assert len(found.coverage().unseen) == 5
    found.add(answer(0, 30, "none"))
    coverage = found.coverage()
    assert [[page.label for page in pages] for pages in (coverage.read, coverage.partly)] == [["p. 1"], ["p. 2"]]
    assert len(coverage.unseen) == 3
    found.add(answer(30, len(document.text), "none"))
    assert len(found.coverage().read) == 5


def test_the_parts_are_a_document(document):
    found = joined(document)
    found.add(answer(0, 43, "The Ada\nThe Bee"))
    found.add(answer(46, 66, "The Ada"))
    parts = found.document()
    assert parts.text == "The Ada\nThe Bee"
    assert parts.pages == (Page("log.pdf", "p. 1, p. 2, p. 3", 0, 7), Page("log.pdf", "p. 1, p. 2", 8, 15))
    assert [parts.text_of(page) for page in parts.pages] == ["The Ada", "The Bee"]


def test_many_pages_are_named_in_part():
    document = Document.of("log.pdf", [(f"p. {i}", "abc") for i in range(1, 21)], "\n")
    found = joined(document)
    found.add(answer(0, len(document.text), "The Ada"))
    assert found.items[0].label == "p. 1, p. 2, p. 3, p. 4, p. 5, p. 6, p. 7, p. 8, ..."
    assert len(found.items[0].fields()["pages"]) == 20


def test_lines_name_files_where_there_are_some():
    one = Document.of("one.txt", [("", "abcdefghijkl")], "")
    two = Document.of("two.pdf", [("p. 1", "mnopqrstuvwx")], "")
    for document, lines in ((one, ["The Ada"]), (two, ["p. 1: The Ada"])):
        found = joined(document)
        found.add(answer(0, 12, "The Ada"))
        assert [item.line(found.has_files) for item in found.items] == lines
    both = joined(join([one, two]))
    both.add(answer(0, 10, "The Ada"))
    both.add(answer(35, 40, "The Bee"))
    assert [item.line(both.has_files) for item in both.items] == ["one.txt: The Ada", "two.pdf, p. 1: The Bee"]


def test_what_says_the_question_again_is_no_item(document):
    found = joined(document, "List all ships, one a line.")
    assert found.add(answer(0, 20, "List all ships, one a line")) == []
