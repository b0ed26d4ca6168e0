"""Documents that were uploaded, so that a server that is started again knows their names and pages."""

import hashlib
import json
from dataclasses import asdict

import numpy as np

from ..documents.document import Document, Page
from .catalog import Catalog, Entry

KIND = "document"


class DocumentStore:
    """Texts with their pages, whatever model reads them.

    Args:
        catalog: Keeps them.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def save(self, document: Document) -> bool:
        """Keep a document, in place of one with the same text; return whether there was room."""
        data = json.dumps(asdict(document), ensure_ascii=False).encode("utf-8", "surrogatepass")
        arrays = {"json": np.frombuffer(data, dtype=np.uint8)}
        return self._catalog.put(_key(document.text), KIND, arrays, document.name)

    def use(self, document: Document) -> None:
        """Note that a document was asked about: those that were not for the longest time are removed first."""
        self._catalog.has(_key(document.text))

    def load(self, n_bytes: int) -> list[Document]:
        """Return the documents that were used last, of at most so many bytes together; the last one comes last."""
        chosen = list[Entry]()
        for entry in reversed([entry for entry in self._catalog.entries() if entry.kind == KIND]):
            n_bytes -= entry.n_bytes
            if n_bytes < 0:
                break
            chosen.insert(0, entry)
        return [document for document in map(self._read, chosen) if document]

    def _read(self, entry: Entry) -> Document | None:
        arrays = self._catalog.get(entry.key)
        if arrays is None:
            return None
        try:
            fields = json.loads(bytes(arrays["json"]).decode("utf-8", "surrogatepass"))
            pages = tuple(Page(**page) for page in fields["pages"])
            return Document(**fields | {"pages": pages, "notes": tuple(fields["notes"])})
        except (KeyError, TypeError, ValueError) as error:
            self._catalog.note(f"a document of the store cannot be read: {error!r}")
            return None


def _key(text: str) -> str:
    return hashlib.sha256(f"{KIND}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()
