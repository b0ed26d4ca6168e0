"""A real model asked about all of a text: each window answers, and items have their pages."""

import pytest

from dapq_edge.chat.rounds import reduce
from dapq_edge.chat.whole import WholeQuestion
from dapq_edge.control import UNCONTROLLED
from dapq_edge.documents.document import Document
from dapq_edge.reading.whole import asked_of_each

pytestmark = pytest.mark.slow

OPENED = {"Velmora": 1776, "Tormere": 1741, "Ashford": 1834, "Kesgate": 1692}
CARRIED = [
    ("miller", "flour", "bridge"),
    ("baker", "bread", "square"),
    ("ferryman", "ropes", "harbour"),
    ("clerk", "ledgers", "court"),
    ("gardener", "pears", "abbey"),
    ("smith", "nails", "gate"),
]


def filler(i):
    """Some 280 tokens about who carried what where."""
    who, what, where = CARRIED[i]
    rain = "and the rain went on until the evening bell"
    days = ((day, day + i % len(CARRIED)) for day in range(1, 13))
    return " ".join(f"On day {day} the {who} carried {n} loads of {what} over the {where}, {rain}." for day, n in days)


def test_a_list(engine):
    facts = [f"The library of {name} was opened in the year {year}." for name, year in OPENED.items()]
    pages = [(f"p. {i + 1}", f"{filler(i)} {fact} {filler(-1 - i)}") for i, fact in enumerate(facts)]
    question = "List all libraries and the year in which each was opened."
    whole = WholeQuestion(engine.model, Document.of("log.pdf", pages, "\n"), question)
    n_windows = sum(1 for _ in whole.ask(engine))
    assert n_windows == whole.n_windows > 2
    found = {name: item for item in whole.items for name in OPENED if name in item.text}
    assert len(found) >= 3
    for i, name in enumerate(OPENED, start=1):
        assert name not in found or [page.label for page in found[name].pages] == [f"p. {i}"]
    assert not whole.coverage().unseen


def test_rounds(engine):
    """What is made of parts that do not fit fits, and is about them."""
    names = ["library", "harbour", "school", "mill", "market"]
    texts = [f"The {what} of {town} was opened in {year}." for what in names for town, year in OPENED.items()] * 3
    texts = [f"{text[:-1]}, in week {i}." for i, text in enumerate(texts)]
    asked = asked_of_each("Which buildings were opened, and when?", None)
    found = reduce(engine, texts, asked, lambda text: len(text) < 1500, UNCONTROLLED)
    assert found.n_rounds == 1
    assert len("\n".join(found.texts)) < 1500 < len("\n".join(texts))
    assert any(town in text for text in found.texts for town in OPENED)
