"""Texts that are taken out of a file, with labels, and what is to be said about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..counts import have
from ..errors import DapqError
from .characters import tidy

# about 2.5 million tokens
MAX_CHARACTERS = 10_000_000

# of a label
MAX_LABEL = 80

MAX_PARTS = 50_000

# of a list in a note
MAX_NAMES = 5


@dataclass
class Extract:
    """The parts of a file, in order.

    Attributes:
        kind: What people call a file of this kind, if its parser knows more than its first bytes tell.
        between: What stands between two parts.
        parts: Label and text of each.
        notes: What was skipped, guessed or not read.
    """

    kind: str = ""
    between: str = "\n"
    parts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_characters: int = 0

    def add(self, label: str, text: str) -> None:
        """Add a part. Raises `DapqError` if the text of the file is endless."""
        text = tidy(text)
        self.n_characters += len(text)
        if self.n_characters > MAX_CHARACTERS:
            raise DapqError(f"has more than {MAX_CHARACTERS // 10**6} million characters: split it")
        if len(self.parts) >= MAX_PARTS:
            raise DapqError(f"has more than {MAX_PARTS:,} parts: split it")
        label = " ".join(tidy(label).split())
        self.parts.append((label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…", text))

    def note_empty(self, what: str) -> None:
        """Note which of its pages have no text; `what` they are called."""
        empty = self.empty()
        if empty:
            self.notes.append(f"{len(empty)} of {len(self.parts)} {what} {have(len(empty))} no text ({ranges(empty)})")

    def empty(self) -> list[int]:
        """Return the numbers, from 1, of the parts without text."""
        return [number for number, (_, text) in enumerate(self.parts, start=1) if not text.strip()]


def listed(names: Sequence[str]) -> str:
    """Return names for a note, of which there may be many."""
    shown = [" ".join(name.split())[:MAX_LABEL] for name in names[:MAX_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else "")


def ranges(numbers: list[int]) -> str:
    """Return ascending numbers as people write them: "2, 3, 7-12"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
