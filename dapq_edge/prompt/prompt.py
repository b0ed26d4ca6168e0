"""A prompt in its parts."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt

# tokens beside a question that are read with every window, at most; see docs/results.md, "The request"
N_ASKED = 128

# level of a part that asks a question
QUESTION = 2


class Kind(str, Enum):
    """Kind of a part of a prompt.

    frame: what the chat template writes between messages. system: the system message. request: what is wanted. answer:
    the last answer, which a new question may speak of, and what of the request has no room to be pinned. document: what
    it is wanted of, and older turns. history: questions that were answered, and their answers, which are not read again
    with a new one. end: the generation prompt, which is read after an eviction.
    """

    FRAME = "frame"
    SYSTEM = "system"
    REQUEST = "request"
    ANSWER = "answer"
    DOCUMENT = "document"
    HISTORY = "history"
    END = "end"


PINNED = Kind.SYSTEM, Kind.REQUEST


@dataclass(frozen=True)
class Part:
    """Tokens `start` to `stop` (exclusive) of a prompt.

    Attributes:
        kind: See `Kind`.
        start: The first one.
        stop: The one behind the last.
        level: How surely a request says what is wanted: 2 if it is a question, 1 if it tells to do something.
        age: Messages of the user behind it.
    """

    kind: Kind
    start: int
    stop: int
    level: int = 0
    age: int = 0

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Table:
    """A table of a document: tokens `start` to `stop`, whose first lines end at `header`."""

    start: int
    header: int
    stop: int


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt, and what they are.

    Attributes:
        tokens: All of them.
        parts: Their kinds, without gaps, from the first token to the last.
        question: The tokens that ask most surely, of the newest request that does; None if nothing is asked.
        tables: Those of its documents whose first lines are pinned.
        separator: Tokens of a blank line, which stands between a document and a request that stood elsewhere.
        n_longest: Tokens of documents in the message that has most.
        n_unpinned: Tokens of the system message and of the request that may be evicted, see `fit`.
        n_asked: Tokens beside the question that are read with every window, at most.
    """

    tokens: list[int]
    parts: tuple[Part, ...]
    question: range | None = None
    tables: tuple[Table, ...] = ()
    separator: tuple[int, ...] = ()
    n_longest: int = 0
    n_unpinned: int = 0
    n_asked: int = N_ASKED

    @classmethod
    def of(
        cls, head: list[int], body: list[int], tail: list[int], has_question: bool = True, n_end: int = 0
    ) -> "Prompt":
        """Return a prompt that is a document between two others parts.

        Args:
            head: Not empty, where there is a document to skim.
            body: The document.
            tail: The question, and the generation prompt.
            has_question: Whether `tail` says what is wanted of the document.
            n_end: Tokens of the generation prompt.
        """
        n_document, n_all = len(head) + len(body), len(head) + len(body) + len(tail)
        kind = Kind.REQUEST if has_question else Kind.FRAME
        parts = (
            Part(Kind.FRAME, 0, len(head)),
            Part(Kind.DOCUMENT, len(head), n_document),
            Part(kind, n_document, n_all - n_end, level=QUESTION * has_question),
            Part(Kind.END, n_all - n_end, n_all),
        )
        question = range(n_document, n_all - n_end) if has_question else None
        return cls(head + body + tail, tuple(part for part in parts if len(part)), question, n_longest=len(body))

    def __len__(self) -> int:
        return len(self.tokens)

    def tokens_of(self, part: Part) -> list[int]:
        """Return the tokens of a part."""
        return self.tokens[part.start : part.stop]

    def of_kind(self, *kinds: Kind) -> list[Part]:
        """Return the parts of some kinds."""
        return [part for part in self.parts if part.kind in kinds]

    @property
    def documents(self) -> list[Part]:
        """Parts that may be skimmed."""
        return self.of_kind(Kind.DOCUMENT)

    @property
    def has_question(self) -> bool:
        """True if it says what is wanted of the documents."""
        return self.question is not None

    @cached_property
    def body_index(self) -> npt.NDArray[np.intp]:
        """Tokens that are of documents: integers [tokens of documents], ascending."""
        return _index(self.documents)

    @property
    def pinned(self) -> npt.NDArray[np.intp]:
        """Tokens that are never evicted: integers, ascending."""
        headers = [range(table.start, table.header) for table in self.tables]
        return np.union1d(_index(self.of_kind(*PINNED)), _index(headers))

    @cached_property
    def body(self) -> list[int]:
        """Tokens of the documents, one behind the other."""
        return list(chain.from_iterable(self.tokens_of(part) for part in self.documents))

    @property
    def head(self) -> list[int]:
        """Tokens before the first document."""
        return self.tokens[: self.borders[0]]

    @property
    def tail(self) -> list[int]:
        """Tokens behind the last document."""
        return self.tokens[self.borders[1] :]

    @property
    def around_index(self) -> npt.NDArray[np.intp]:
        """Tokens that are read whatever is chosen of the documents: integers, ascending."""
        return _index(part for part in self.parts if part.kind not in (Kind.DOCUMENT, Kind.HISTORY))

    @property
    def n_around(self) -> int:
        """Tokens that are read with what is chosen of the documents, before the generation prompt."""
        return len(self) - sum(map(len, self.of_kind(Kind.DOCUMENT, Kind.HISTORY, Kind.END)))

    @property
    def n_header(self) -> int:
        """Tokens of the longest first lines of a table, which go with a window of its rows."""
        return max((table.header - table.start for table in self.tables), default=0)

    def header_of(self, place: int) -> list[int]:
        """Return the first lines of the table that token `place` of the documents is in the middle of."""
        token = int(self.body_index[place])
        table = next((table for table in self.tables if table.header <= token < table.stop), None)
        return self.tokens[table.start : table.header] if table else []

    def with_headers(self, is_read: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which tokens are read if tables have their first lines beside what is read of them: bool [tokens]."""
        is_read = is_read.copy()
        for table in self.tables:
            is_read[table.start : table.header] |= is_read[table.start : table.stop].any()
        return is_read

    @property
    def n_end(self) -> int:
        """Tokens of the generation prompt."""
        return sum(map(len, self.of_kind(Kind.END)))

    def whole(self) -> "Prompt":
        """Return it as one text, nothing of which is evicted, so that it is read at once."""
        return Prompt.of([], self.tokens, [], has_question=False)

    @property
    def text(self) -> list[int]:
        """Tokens before the generation prompt."""
        return self.tokens[: len(self) - self.n_end]

    @property
    def end(self) -> list[int]:
        """Tokens of the generation prompt."""
        return self.tokens[len(self) - self.n_end :]

    @property
    def borders(self) -> tuple[int, int]:
        """Tokens before the first document, and up to the end of the last one."""
        documents = self.documents
        return (documents[0].start, documents[-1].stop) if documents else (len(self), len(self))


def _index(parts: Iterable[Part | range]) -> npt.NDArray[np.intp]:
    return np.concatenate([np.empty(0, dtype=np.intp), *(np.arange(part.start, part.stop) for part in parts)])
