"""Documents in messages, and their pages."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest

from dapq_edge.chat import library
from dapq_edge.chat.library import Library
from dapq_edge.chat.sources import Coverage, Source
from dapq_edge.documents.document import Document, Page
from dapq_edge.reading.choice import Chunk
from dapq_edge.reading.citations import Citation
from dapq_edge.reading.stats import absent_note, is_found
from dapq_edge.store.catalog import Catalog
from dapq_edge.store.documents import DocumentStore

ONE = Document.of("one.pdf", [("p. 1", "First page."), ("p. 2", "Second page.")], "\n")
TWO = Document.of("two.txt", [("", "Another text.")], "")


@pytest.fixture
def both():
    made = Library()
    made.add(ONE)
    made.add(TWO)
    return made


def test_pages_stand_where_the_message_has_them(both):
    message = f"two.txt\n{TWO.text}\n\none.pdf\n{ONE.text}\n\nWhy?"
    quoted = both.quoted(["Hello", message, "And why?"])
    assert [(page.label, quoted.document.text_of(page)) for page in quoted.document.pages] == [
        ("", "Another text."),
        ("p. 1", "First page."),
        ("p. 2", "Second page."),
    ]
    assert quoted.request == "And why?"
    assert both.quoted([message]).request == "two.txt\n\n\none.pdf\n\n\nWhy?"
    start = message.index("Second")
    cited = Citation((0, 1), start, start + 12, range(0), 0.5)
    assert quoted.place_of(Source(1, quoted.document.pages[2], "Second page.", cited)) == ONE.text.index("Second")


def test_the_newest_message_counts(both):
    assert both.quoted([ONE.text, TWO.text]).document.text == TWO.text
    assert both.quoted(["First page.", ""]) is None
    assert both.quoted([]) is None


def test_the_oldest_are_forgotten(both, monkeypatch):
    monkeypatch.setattr(library, "MAX_CHARACTERS", len(TWO.text) + 5)
    both.add(TWO)
    assert both.quoted([ONE.text]) is None
    assert both.quoted([TWO.text])
    # one that is too long by itself is there as long as it is the newest
    both.add(ONE)
    assert both.quoted([TWO.text]) is None
    assert both.quoted([ONE.text])


@pytest.fixture
def catalog(tmp_path):
    with contextlib.closing(Catalog(tmp_path / "store", 10**6)) as catalog:
        yield catalog


ODD = Document.of("lone \ud800.txt", [("", "Größe, 港 and \ud800.")], "", ["a note"])


def test_a_library_that_is_kept(catalog):
    """It is there again as it was: texts, names, pages and notes; and only their owner reads it."""
    for document in (ONE, TWO, ODD, replace(ONE, name="again.pdf")):
        Library(DocumentStore(catalog)).add(document)
    assert DocumentStore(catalog).load(10**6) == [TWO, ODD, replace(ONE, name="again.pdf")]
    quoted = Library(DocumentStore(catalog)).quoted([f"{ONE.text}\n\nWhy?"])
    assert [(page.file, page.label) for page in quoted.document.pages] == [("one.pdf", "p. 1"), ("one.pdf", "p. 2")]
    assert [entry.kind for entry in catalog.entries()] == ["document"] * 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in [catalog.folder, *catalog.folder.iterdir()])
    assert catalog.take_faults() == []
    assert catalog.clear() == 3
    assert Library(DocumentStore(catalog)).quoted([ONE.text]) is None


def test_documents_that_are_asked_about_stay(catalog):
    """The others are removed first, and not read first."""
    store = DocumentStore(catalog)
    texts = [Document.of(f"{i}.txt", [("", f"{i} " * 1000)], "") for i in range(4)]
    library = Library(store)
    for document in texts:
        library.add(document)
    assert library.quoted([texts[0].text])
    (size, *_) = (entry.n_bytes for entry in catalog.entries())
    for _ in range(2):
        # reading them changes no order
        assert [document.name for document in store.load(2 * size)] == ["3.txt", "0.txt"]
    with contextlib.closing(Catalog(catalog.folder, 2 * size)) as smaller:
        assert [document.name for document in DocumentStore(smaller).load(10**6)] == ["3.txt", "0.txt"]


def test_a_document_that_is_damaged_or_foreign_is_said(catalog):
    store = DocumentStore(catalog)
    store.save(ONE)
    (path,) = catalog.folder.glob("*.kv")
    path.write_bytes(path.read_bytes()[:-1])
    catalog.put("0" * 64, "document", {"json": np.frombuffer(b"[1]", dtype=np.uint8)})
    catalog.put("1" * 64, "document", {"other": np.zeros(3)})
    catalog.put("2" * 64, "window", {"cells": np.zeros(3)})
    assert store.load(10**6) == []
    damaged, *foreign = catalog.take_faults()
    assert "damaged" in damaged
    assert len(foreign) == 2
    assert all("a document of the store cannot be read" in fault for fault in foreign)


LONG = "\n\n".join(f"The clerk counted crate {i}, and the gulls." for i in range(60))


def test_all_documents_of_a_conversation(both):
    contents = [f"{TWO.text}\n\n{ONE.text}\n\nWhy?", "Thanks!", f"{LONG}\n\nWho counted?", f"{ONE.text}\n\nAnd now?"]
    two, one, long = both.documents_in(contents)
    assert (two, one) == (TWO, ONE)
    assert (long.name, long.text) == ("message 3", LONG)
    assert both.documents_in(["Why?", ""]) == []


@pytest.mark.parametrize("content", [f"{LONG}\n\nWho counted?", f"Who counted?\n\n{LONG}"])
def test_a_long_text_that_was_pasted_is_a_document(both, content):
    """Whoever sends it: other programs upload nothing here."""
    quoted = both.quoted(["Hello", content])
    ((place, document),) = quoted.places
    assert document.text == LONG == content[place : place + len(LONG)]
    assert [(page.file, page.label) for page in quoted.document.pages] == [("message 2", "")]
    assert quoted.document.text_of(quoted.document.pages[0]) == LONG
    assert quoted.request == "Who counted?"


def test_what_was_uploaded_comes_before_what_was_pasted(both):
    quoted = both.quoted([f"{ONE.text}\n\nWhy?", f"{LONG}\n\nWho counted?"])
    assert [page.file for page in quoted.document.pages] == ["one.pdf", "one.pdf"]
    assert quoted.request == f"{LONG}\n\nWho counted?"


def pages(*labels):
    return [Page("a.pdf", label, 0, 1) for label in labels]


@pytest.mark.parametrize(
    ("coverage", "line"),
    [
        (
            Coverage(pages("p. 3", "p. 17"), pages("p. 90"), pages("p. 1", "p. 2"), pages("p. 4")),
            "read 2 of 6 pages (3, 17); a part of 1 (90); 2 skimmed; 1 not looked at",
        ),
        (Coverage([], [], pages("Intro", "End"), []), "read 0 of 2 pages; 2 skimmed"),
        (Coverage(pages("Intro", ""), [], [], pages("")), "read 2 of 3 pages (Intro, a.pdf); 1 not looked at"),
        (Coverage(pages("p. 1", "p. 2"), [], [], []), "read all of 2 pages"),
        (Coverage(pages(""), [], [], []), "read all of the text"),
        (Coverage([], pages(""), [], []), "read a part of the text"),
        (
            Coverage(pages(*(f"p. {i}" for i in range(20))), [], pages("p. 20"), []),
            "read 20 of 21 pages (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...); 1 skimmed",
        ),
    ],
)
def test_coverage_in_words(coverage, line):
    assert coverage.line == line


@pytest.mark.parametrize(
    ("request_text", "relevance", "coverage", "is_said"),
    [
        ("In which year was it opened?", 0.2, 0.3, True),
        ("In which year was it opened?", 0.3, 0.3, False),
        # words that the heads do not see
        ("In which year was it opened?", 0.03, 0.4, False),
        ("Summarize the text.", 0.015, 0.0, False),
        ("How many towns are mentioned?", 0.015, 0.0, False),
        ("", 0.015, 0.0, False),
    ],
)
def test_what_is_not_there_is_said(request_text, relevance, coverage, is_said):
    chunks = [Chunk(0, 9, 0.01, 0.1), Chunk(9, 20, relevance, 0.1), Chunk(20, 30, 0.0, coverage)]
    assert bool(absent_note(chunks, request_text)) == is_said
    assert absent_note([], request_text) is None


@pytest.mark.parametrize(
    ("n_chunks", "relevance", "expected"),
    [(1, 0.26, True), (12, 0.25, True), (12, 0.24, False), (120, 0.25, False), (120, 0.76, False), (120, 0.78, True)],
)
def test_the_best_of_many_chunks_has_to_be_more_relevant(n_chunks, relevance, expected):
    """Ten times as many: a tenth of the odds."""
    chunks = [Chunk(i, i + 1, relevance if i == 3 else 0.1, is_skimmed=True) for i in range(max(4, n_chunks))]
    assert is_found(chunks) == expected
    # those that were not looked at do not count
    assert is_found(chunks + [Chunk(i, i + 1) for i in range(500)]) == expected
    assert is_found([*chunks, Chunk(900, 901, relevance=1.0, is_skimmed=True)])


def test_words_count_in_the_most_relevant_chunks():
    chunks = [Chunk(i, i + 1, 0.01 * i, is_skimmed=True) for i in range(8)]
    chunks[3].coverage = 0.4
    assert is_found(chunks)
    chunks[3].coverage, chunks[2].coverage = 0.3, 1.0
    assert not is_found(chunks)
