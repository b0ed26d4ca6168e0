"""Questions about all of a document: each window answers, and what they say is joined."""

import contextlib
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from ..control import UNCONTROLLED, Control
from ..counts import count
from ..documents.document import Document
from ..llamacpp.model import Model
from ..prompt.chat_template import chat_prompt
from ..prompt.extent import Extent, extent_of
from ..reading.engine import Engine
from ..reading.whole import N_PART, WindowAnswer, asked_of_each, windows_of
from .joined import Item, Joined
from .rounds import Reduced, reduce
from .sources import Coverage

# a list is what was joined, and code counts better than a model
JOINED = Extent.LIST, Extent.COUNT


class WholeMode(str, Enum):
    """Choice of when each window of a document that does not fit is asked.

    auto: if the question asks for all of it, and finds no place that stands out. on: always. off: never.
    """

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class WholeQuestion:
    """A question about all of a document, and what is answered so far.

    Args:
        model: Of the engine that will be asked.
        document: It.
        question: It.

    Attributes:
        extent: What kind of an answer it asks for.
        prompt: The document, and what each window is asked.
        n_windows: Windows of it.
        items: What they said so far.
        has_files: Whether the document is of several files.
        is_skimmed: Whether what was said is more than the last answer has room for; set by who writes it.
    """

    def __init__(self, model: Model, document: Document, question: str) -> None:
        self.extent = extent_of(question, asks_for_all=True)
        self._asked = asked_of_each(question, self.extent)
        self.prompt = chat_prompt(model, document.text, self._asked)
        self.n_windows = len(windows_of(self.prompt, model.n_ctx_train))
        self.is_skimmed = False
        self._joined = Joined(model, self.prompt, document, self._asked, is_copied=self.extent in JOINED)
        self._answered: list[WindowAnswer] = []
        self._reduced = Reduced([])

    @property
    def items(self) -> list[Item]:
        return self._joined.items

    @property
    def has_files(self) -> bool:
        return self._joined.has_files

    def ask(self, engine: Engine, control: Control = UNCONTROLLED) -> Iterator[list[Item]]:
        """Ask each window, and yield what is new in its answer. What is in the store is not asked again.

        Raises what `control` raises, and `DapqError` if llama.cpp fails.
        """
        with contextlib.closing(engine.answer_windows(self.prompt, control=control)) as answers:
            for answer in answers:
                self._answered.append(answer)
                yield self._joined.add(answer)

    @property
    def is_joined(self) -> bool:
        """True if code makes the answer of the items; otherwise, a model writes it over them."""
        return self.extent in JOINED or not self.items

    @property
    def joined(self) -> str:
        """Answer that code makes of the items; empty if a model is wanted."""
        if self.extent == Extent.COUNT:
            return str(len(self.items))
        return "\n".join(item.text for item in self.items) if self.extent == Extent.LIST else ""

    def parts(self, engine: Engine, fits: Callable[[str], bool], control: Control = UNCONTROLLED) -> str:
        """Return what the last answer is written over: the items, or what is made of them in rounds, see `reduce`.

        Args:
            engine: It answers.
            fits: Says whether an answer is written over all of a text.
            control: Watches and stops.

        Raises as `reduce` does.
        """
        self._reduced = reduce(engine, [item.text for item in self.items], self._asked, fits, control)
        return "\n".join(self._reduced.texts)

    @property
    def has_nothing(self) -> bool:
        """True if no window said anything, not even what is left out or cut."""
        return not (self.items or self._joined.n_left_out or self._n_cut)

    @property
    def is_partial(self) -> bool:
        """True if something that was said is not in the answer."""
        return self._n_cut + self._reduced.n_cut + self._reduced.n_silent > 0 or self.is_skimmed

    @property
    def n_evaluated(self) -> int:
        """Tokens that were evaluated for the windows, and for the rounds over what they said."""
        return sum(answer.n_evaluated for answer in self._answered) + self._reduced.n_evaluated

    @property
    def _n_cut(self) -> int:
        return sum(answer.is_cut for answer in self._answered)

    def coverage(self) -> Coverage:
        """Return the pages that were asked so far."""
        return self._joined.coverage()

    def notes(self) -> list[str]:
        """Return what to say about what is not in the answer, one line each."""
        n_left_out, n_rounds = self._joined.n_left_out, self._reduced.n_rounds
        n_cut, n_silent = self._reduced.n_cut, self._reduced.n_silent
        cut = f"had more to say than {N_PART} tokens, which is missing"
        left_out = "items that are left out, as their words do not stand where they are said to"
        lines = (
            (self._n_cut, f"{self._n_cut:,} of {count(self.n_windows, 'window')} {cut}"),
            (n_left_out, f"{left_out}: {n_left_out:,}"),
            (self.has_nothing, "no window of the document has anything about this"),
            (n_rounds, f"the parts are longer than the budget: groups of them answered first (rounds: {n_rounds:,})"),
            (n_cut, f"groups of parts that {cut}: {n_cut:,}"),
            (n_silent, f"groups of parts that said nothing, and are missing: {n_silent:,}"),
            (self.is_skimmed, "the parts have no room in the budget, so that some are not in the answer"),
        )
        return [line for is_so, line in lines if is_so]

    def fields(self) -> dict[str, Any]:
        """Return what was found, for JSON."""
        return {
            "count": len(self.items),
            "left_out": self._joined.n_left_out,
            "parts": [item.fields() for item in self.items],
            "windows_read": len(self._answered),
            "windows": self.n_windows,
            "windows_stored": sum(answer.is_stored for answer in self._answered),
            "windows_cut": self._n_cut,
            "rounds": self._reduced.n_rounds,
        }
