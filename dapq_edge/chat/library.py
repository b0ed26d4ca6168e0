"""Documents that are asked about, so that answers can name their pages."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..documents.document import Document
from ..prompt.paragraphs import split_text
from ..store.documents import DocumentStore
from .sources import Source

# characters of all documents that are remembered, bytes of those that come from a store
MAX_CHARACTERS = 50_000_000

# characters of a part of a message that is cited, at least
MIN_PASTED = 2000

# about as many characters are a token
N_CHARACTERS = 4


@dataclass(frozen=True)
class Quoted:
    """A message, and the documents in it.

    Attributes:
        document: The message as a document, whose pages are those of the documents.
        places: First character of each document in the message, and the document; ascending.
        request: The newest message, without documents.
    """

    document: Document
    places: list[tuple[int, Document]]
    request: str

    @classmethod
    def of(cls, content: str, places: list[tuple[int, Document]], newer: str | None = None) -> "Quoted":
        """Return a message that has documents at some places.

        Args:
            content: It.
            places: First character of each document, and the document.
            newer: The newest message, if it is another one.
        """
        places = sorted(places, key=lambda pair: pair[0])
        request = content
        for place, document in reversed(places):
            request = request[:place] + request[place + len(document.text) :]
        pages = [page.moved(place) for place, document in places for page in document.pages]
        return cls(Document("", content, tuple(pages)), places, (request if newer is None else newer).strip())

    def place_of(self, source: Source) -> int:
        """Return the first character of a source in the document that it is of."""
        start = source.citation.start
        return start - max(place for place, _ in self.places if place <= start)


class Library:
    """The newest documents, in memory.

    Args:
        store: Keeps them on disk, too, and gives back what it has; None for this process only.
    """

    def __init__(self, store: DocumentStore | None = None) -> None:
        self._store = store
        kept = store.load(MAX_CHARACTERS) if store else []
        self._documents = {document.text: document for document in kept}

    def add(self, document: Document) -> None:
        """Remember a document; the oldest ones are forgotten."""
        documents = {text: one for text, one in self._documents.items() if text != document.text}
        documents[document.text] = document
        while len(documents) > 1 and sum(map(len, documents)) > MAX_CHARACTERS:
            del documents[next(iter(documents))]
        # another thread may look at the old ones
        self._documents = documents
        if self._store:
            self._store.save(document)

    def quoted(self, contents: Sequence[str]) -> Quoted | None:
        """Return the newest message that holds documents, or else the newest long one; None if there is none.

        Args:
            contents: Messages of a user, the oldest first.
        """
        for find in (self._places, pasted):
            for number, content in reversed(list(enumerate(contents, start=1))):
                places = find(content, f"message {number}")
                if places:
                    return Quoted.of(content, places, None if number == len(contents) else contents[-1])
        return None

    def documents_in(self, contents: Sequence[str]) -> list[Document]:
        """Return all documents in messages, and of those that have none the long parts that are no request.

        Args:
            contents: Messages of a user, the oldest first.
        """
        found: dict[str, Document] = {}
        for number, content in enumerate(contents, start=1):
            name = f"message {number}"
            places = self._places(content, name) or pasted(content, name)
            found |= {document.text: document for _, document in sorted(places, key=lambda pair: pair[0])}
        return list(found.values())

    def _places(self, content: str, _name: str) -> list[tuple[int, Document]]:
        found = [(content.find(text), document) for text, document in list(self._documents.items())]
        places = [(place, document) for place, document in found if place >= 0]
        if self._store:
            for _, document in places:
                self._store.use(document)
        return places


def pasted(content: str, name: str) -> list[tuple[int, Document]]:
    """Return the long parts of a message that are no request: first character, and a document of that name."""
    if len(content) < MIN_PASTED:
        return []
    spans = split_text(content, lambda start, stop: -(-(stop - start) // N_CHARACTERS))
    parts = [(span.start, content[span.start : span.stop]) for span in spans if not span.is_request]
    return [
        (start + len(text) - len(text.lstrip()), Document.of(name, [("", text)], ""))
        for start, text in parts
        if len(text.strip()) >= MIN_PASTED
    ]
