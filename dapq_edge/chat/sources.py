"""Sources of an answer: the passages that it was read from, and what of the documents was read at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..documents.document import Document, Page
from ..prompt.places import find_place
from ..reading.citations import Citation, cite
from ..reading.engine import Engine

# a page of which this share was read counts as read: borders are a token off
MIN_READ = 0.95

# pages that are named, at most
N_NAMED = 12


@dataclass(frozen=True)
class Source:
    """A passage that a sentence of the answer was read from.

    Attributes:
        number: It counts from 1; sentences that were read from one passage share it.
        page: Where it stands.
        quote: The passage, in one line.
        citation: Its place in the answer, in the document and in the prompt.
    """

    number: int
    page: Page
    quote: str
    citation: Citation

    @property
    def line(self) -> str:
        """Return it for people."""
        label = f", {self.page.label}" if self.page.label else ""
        return f'[{self.number}] {self.page.file}{label}: "{self.quote}"'

    def fields(self) -> dict[str, Any]:
        """Return it for JSON: characters are counted from 0, in the answer and in the documents' text."""
        cited = self.citation
        return {
            "number": self.number,
            "quote": self.quote,
            "file": self.page.file,
            "page": self.page.label,
            "sentence": list(cited.sentence),
            "characters": [cited.start, cited.stop],
            "tokens": [cited.tokens.start, cited.tokens.stop],
            "weight": round(cited.weight, 4),
        }


def find_sources(engine: Engine, document: Document) -> list[Source]:
    """Return the sources of an answer that was just written. Raises `DapqError` if the attention cannot be probed.

    The answer is what was written, without white space around it. A model that cannot be probed has none.

    Args:
        engine: Its cache holds the prompt and the answer.
        document: What the prompt holds; several are joined.
    """
    if not engine.cache.can_evict:
        return []
    pieces = engine.model.pieces(engine.sequence.text.tolist())
    pages = [(page.start, page.stop) for page in document.pages]
    found = cite(engine.cache, engine.heads, pieces, engine.n_prompt, document.text, pages)
    numbers: dict[int, int] = {}
    return [
        Source(
            numbers.setdefault(cited.start, len(numbers) + 1),
            _page_of(document, cited.start),
            " ".join(document.text[cited.start : cited.stop].split()),
            cited,
        )
        for cited in found
    ]


def _page_of(document: Document, place: int) -> Page:
    inside = (page for page in document.pages if page.start <= place < page.stop)
    return next(inside, Page(document.name, "", 0, len(document.text)))


@dataclass(frozen=True)
class Coverage:
    """Pages of the documents that an answer is based on.

    Attributes:
        read: Those that were read, see `MIN_READ`.
        partly: Those of which some was.
        skimmed: Those that were only looked at.
        unseen: Those that were not looked at.
    """

    read: list[Page]
    partly: list[Page]
    skimmed: list[Page]
    unseen: list[Page]

    @property
    def line(self) -> str:
        """Return it for people."""
        groups = self.read, self.partly, self.skimmed, self.unseen
        n_all = sum(map(len, groups))
        if len(self.read) == n_all:
            return f"read all of {n_all:,} pages" if n_all > 1 else "read all of the text"
        if n_all == 1:
            return "read a part of the text" if self.partly else "read nothing of the text"
        parts = [f"read {len(self.read):,} of {n_all:,} pages{_named(self.read)}"]
        parts += [f"a part of {len(self.partly):,}{_named(self.partly)}"] if self.partly else []
        parts += [f"{len(self.skimmed):,} skimmed"] if self.skimmed else []
        parts += [f"{len(self.unseen):,} not looked at"] if self.unseen else []
        return "; ".join(parts)

    def fields(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            name: [{"file": page.file, "page": page.label} for page in getattr(self, name)]
            for name in ("read", "partly", "skimmed", "unseen")
        }


def _named(pages: Sequence[Page]) -> str:
    """Return the labels of pages in brackets, or names of files that are one: numbers alone where all have some."""
    labels = [name for page in pages if (name := page.label or page.file)]
    if not labels:
        return ""
    is_numbered = all(label.startswith("p. ") for label in labels)
    shown = [label.removeprefix("p. ") if is_numbered else label for label in labels[:N_NAMED]]
    return f" ({', '.join(shown)}{', ...' if len(labels) > N_NAMED else ''})"


def find_coverage(engine: Engine, document: Document) -> Coverage | None:
    """Return what was read of a document that is in the cache; None if the prompt does not hold it as it is.

    Args:
        engine: It has read a prompt.
        document: What the prompt holds.
    """
    found = engine.unsettled
    sequence, stats = found.sequence, found.read
    place = find_place(engine.model.pieces(sequence.text.tolist()), document.text)
    if place is None:
        return None
    is_read = np.zeros(sequence.n_tokens, dtype=bool)
    is_read[sequence.text_index] = True
    is_seen = is_read.copy()
    if stats is not None and stats.body_index.size and stats.body_index[-1] < sequence.n_tokens:
        for chunk in stats.chunks:
            is_seen[stats.body_index[chunk.start : chunk.stop]] |= chunk.is_skimmed
    groups: dict[str, list[Page]] = {"read": [], "partly": [], "skimmed": [], "unseen": []}
    for page in document.pages:
        tokens = place.tokens_of(page.start, page.stop)
        if len(tokens):
            groups[_state(is_read[tokens.start : tokens.stop], is_seen[tokens.start : tokens.stop])].append(page)
    return Coverage(**groups)


def _state(is_read: npt.NDArray[np.bool_], is_seen: npt.NDArray[np.bool_]) -> str:
    if is_read.mean() >= MIN_READ:
        return "read"
    if is_read.any():
        return "partly"
    return "skimmed" if is_seen.all() else "unseen"
