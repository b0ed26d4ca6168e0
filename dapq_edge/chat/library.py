"""Documents that are asked about, so that answers can name their pages."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..documents.document import Document
from .sources import Source

# characters of all documents that are remembered
MAX_CHARACTERS = 50_000_000


@dataclass(frozen=True)
class Quoted:
    """A message, and the documents in it.

    Attributes:
        document: The message as a document, whose pages are those of the documents.
        places: First character of each document in the message, and the document; ascending.
    """

    document: Document
    places: list[tuple[int, Document]]

    @property
    def request(self) -> str:
        """The rest of it, around the documents."""
        text = self.document.text
        for place, document in reversed(self.places):
            text = text[:place] + text[place + len(document.text) :]
        return text.strip()

    def place_of(self, source: Source) -> int:
        """Return the first character of a source in the document that it is of."""
        start = source.citation.start
        return start - max(place for place, _ in self.places if place <= start)


class Library:
    """The newest documents, in memory."""

    def __init__(self) -> None:
        self._documents: dict[str, Document] = {}

    def add(self, document: Document) -> None:
        """Remember a document; the oldest ones are forgotten."""
        self._documents.pop(document.text, None)
        self._documents[document.text] = document
        while len(self._documents) > 1 and sum(map(len, self._documents)) > MAX_CHARACTERS:
            del self._documents[next(iter(self._documents))]

    def quoted(self, contents: Iterable[str]) -> Quoted | None:
        """Return the newest message that holds documents; None if none does.

        Args:
            contents: Messages of a user, the oldest first.
        """
        for content in reversed(list(contents)):
            found = [(content.find(text), document) for text, document in list(self._documents.items())]
            places = sorted(((place, document) for place, document in found if place >= 0), key=lambda pair: pair[0])
            if places:
                pages = [page.moved(place) for place, document in places for page in document.pages]
                return Quoted(Document("", content, tuple(pages)), places)
        return None
