"""Documents: a text, the pages that it consists of, and what was not read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

# what stands between two documents that are asked about together
BETWEEN = "\n\n"


@dataclass(frozen=True)
class Page:
    """A part of a document that a citation names.

    Attributes:
        file: Name of the file.
        label: "p. 12", "slide 3", "sheet Prices, rows 2-51", a heading, a title, or else "part 1"; it may be empty if
            the file is one part.
        start: First character in `Document.text`.
        stop: Character behind the last one; a page without text has `start == stop`.
    """

    file: str
    label: str
    start: int
    stop: int

    def moved(self, n: int) -> "Page":
        """Return it in a text that has `n` more characters before it."""
        return replace(self, start=self.start + n, stop=self.stop + n)


@dataclass(frozen=True)
class Document:
    """The text of a file, or of several.

    Attributes:
        name: Name of the file.
        text: Its text, without space around it.
        pages: Its parts, ascending; there may be characters between them.
        notes: What was skipped, guessed or not read, one line each.
    """

    name: str
    text: str
    pages: tuple[Page, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, parts: Iterable[tuple[str, str]], between: str, notes: Sequence[str] = ()) -> "Document":
        """Join labels and texts, with `between` from one to the next."""
        pages, texts, place = [], [], 0
        parts = list(parts)
        for number, (label, text) in enumerate(parts, start=1):
            # what stands before the first heading has none
            label = label or (f"part {number}" if len(parts) > 1 else "")
            pages.append((label, place, place + len(text)))
            texts.append(text)
            place += len(text) + len(between)
        text = between.join(texts)
        n_before, n_text = len(text) - len(text.lstrip()), len(text.strip())

        def place_of(i: int) -> int:
            return min(max(0, i - n_before), n_text)

        inside = tuple(Page(name, label, place_of(start), place_of(stop)) for label, start, stop in pages)
        return cls(name, text.strip(), inside, tuple(notes))

    def text_of(self, page: Page) -> str:
        """Return the text of one of its pages."""
        return self.text[page.start : page.stop]


def join(documents: Sequence[Document]) -> Document:
    """Return documents as one; if there are several, a line with its name stands before each text."""
    if len(documents) == 1:
        return documents[0]
    texts: list[str] = []
    pages: list[Page] = []
    place = 0
    for document in documents:
        title = f"{document.name}\n"
        start = place + len(title)
        pages += [page.moved(start) for page in document.pages]
        texts.append(title + document.text)
        place += len(texts[-1]) + len(BETWEEN)
    names = ", ".join(document.name for document in documents)
    return Document(names, BETWEEN.join(texts), tuple(pages), tuple(note for one in documents for note in one.notes))
