"""Items that the windows of a document answered: equal ones are joined, with the pages that they are from."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..documents.document import Document, Page
from ..llamacpp.model import Model
from ..prompt import Prompt
from ..prompt.places import find_place
from ..reading.items import items_of, key_of
from ..reading.lexical import words
from ..reading.whole import WindowAnswer
from .sources import Coverage

# labels of an item that are named, at most
N_LABELS = 8

# an item of a list has this share of its words from its window, where a small model lists what it knows if it finds
# none; and from the pages that are named for it
MIN_THERE = 0.8


@dataclass(frozen=True)
class Item:
    """Something that windows of a document answered.

    Attributes:
        text: As the first of them said it.
        pages: Where it was read, ascending.
        windows: Those that said it, counted from 1.
    """

    text: str
    pages: list[Page]
    windows: list[int]

    @property
    def file(self) -> str:
        """Names of the files that it is from."""
        return ", ".join(dict.fromkeys(page.file for page in self.pages))

    @property
    def label(self) -> str:
        """Labels of its pages, in one line."""
        labels = list(dict.fromkeys(page.label for page in self.pages if page.label))
        return ", ".join([*labels[:N_LABELS], *["..."] * (len(labels) > N_LABELS)])

    def line(self, with_file: bool) -> str:
        """Return it for people, behind where it is from."""
        where = ", ".join(part for part in (self.file if with_file else "", self.label) if part)
        return f"{where}: {self.text}" if where else self.text

    def fields(self) -> dict[str, Any]:
        """Return it for JSON."""
        pages = [{"file": page.file, "page": page.label} for page in self.pages]
        return {"text": self.text, "pages": pages, "windows": self.windows}


class Joined:
    """Items of the windows of a document, in its order.

    Args:
        model: For its vocabulary.
        prompt: What the windows are of.
        document: The same, with pages.
        question: What was asked; an answer that says it again says nothing.
        is_copied: Whether items are left out whose words do not stand in their window.

    Attributes:
        items: Those that were found so far.
        n_left_out: Those that were left out so far.
        has_files: Whether the document is of several files.
    """

    def __init__(
        self, model: Model, prompt: Prompt, document: Document, question: str, *, is_copied: bool = False
    ) -> None:
        self.items: list[Item] = []
        self.n_left_out = 0
        self.has_files = len({page.file for page in document.pages}) > 1
        self._document, self._question, self._body = document, question, prompt.body_index
        self._place = find_place(model.pieces(prompt.tokens), document.text)
        self._by_key: dict[str, Item] = {}
        self._is_copied = is_copied
        # windows that answered, and the character behind the last one
        self._n_answers = self._stop = 0

    def add(self, answer: WindowAnswer) -> list[Item]:
        """Add the answer of the next window; return what is new."""
        self._n_answers += 1
        start, new = self._first_character(answer.tokens), list[Item]()
        pages = [page for page in self._document.pages if page.start < self._stop and start < page.stop]
        # of a page, only what the window has
        parts = [self._document.text[max(page.start, start) : min(page.stop, self._stop)] for page in pages]
        texts = [frozenset(words(part)) for part in parts]
        there = set(words(self._document.text[start : self._stop]))
        for text in items_of(answer.text, self._question):
            if self._is_copied and self._place and not _is_there(text, there):
                self.n_left_out += 1
                continue
            item = self._by_key.get(key_of(text))
            if item is None:
                item = self._by_key[key_of(text)] = Item(text, [], [])
                new.append(item)
            item.windows.append(self._n_answers)
            which = [pages[i] for i in covering(set(words(text)), texts)]
            item.pages.extend(page for page in which if page not in item.pages)
        self.items += new
        return new

    def document(self) -> Document:
        """Return the items as a text, each a page that says where it is from."""
        pages, place = [], 0
        for item in self.items:
            pages.append(Page(item.file, item.label, place, place + len(item.text)))
            place += len(item.text) + 1
        return Document(self._document.name, "\n".join(item.text for item in self.items), tuple(pages))

    def coverage(self) -> Coverage:
        """Return the pages that were asked so far."""
        pages = self._document.pages
        return Coverage(
            read=[page for page in pages if page.stop <= self._stop],
            partly=[page for page in pages if page.start < self._stop < page.stop],
            skimmed=[],
            unseen=[page for page in pages if self._stop <= page.start and self._stop < page.stop],
        )

    def _first_character(self, tokens: range) -> int:
        """Return the first character of tokens of the documents, and note where they end."""
        if self._place is None:
            return self._stop
        first, last = (int(self._body[i]) - self._place.tokens.start for i in (tokens.start, tokens.stop - 1))
        first, last = np.clip([first, last], 0, len(self._place.tokens) - 1).tolist()
        self._stop = int(self._place.stops[last])
        return int(self._place.starts[first])


def covering(said: Set[str], texts: Sequence[Set[str]]) -> list[int]:
    """Return which texts some words are from, ascending.

    Those that have all of the words that any text has; if none does, few that together have `MIN_THERE` of them, each
    with more of the missing ones than any other text (greedy set cover); all of them, if none has any.

    Args:
        said: Words.
        texts: Words of each text.
    """
    known = said & set[str]().union(*texts)
    if not known:
        return list(range(len(texts)))
    having = [i for i, text in enumerate(texts) if known <= text]
    missing, found = known, set[int]()
    while not having and len(known) - len(missing) < MIN_THERE * len(known):
        best = max(range(len(texts)), key=lambda i: len(missing & texts[i]))
        found.add(best)
        missing = missing - texts[best]
    return having or sorted(found)


def _is_there(text: str, there: set[str]) -> bool:
    said = words(text)
    return sum(word in there for word in said) >= MIN_THERE * len(said)
