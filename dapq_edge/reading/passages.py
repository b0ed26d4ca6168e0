"""Passages: sentences of a text, as citations show them."""

import re
from collections.abc import Iterator

# characters of a passage, at most
N_PASSAGE = 320

_SENTENCE = re.compile(r"(?<=[.!?。？！؟])[\"'”’)\]]*\s+|(?<=[。？！])|\s*\n\s*\n\s*")  # noqa: RUF001
_LINE = re.compile(r"\s*[\r\n]+\s*")
_WORD = re.compile(r"\s+")


def passages(text: str) -> Iterator[tuple[int, int]]:
    """Yield the first character of each passage of a text, and the one behind its last.

    That is a sentence; of a longer one, as of a table, a line; of a longer line, some words.
    """
    for sentence in _parts(text, _SENTENCE, 0, len(text)):
        if sentence[1] - sentence[0] <= N_PASSAGE:
            yield sentence
            continue
        for line in _parts(text, _LINE, *sentence):
            yield from _words(text, *line)


def _parts(text: str, border: re.Pattern[str], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield what is between the borders, without white space."""
    for found in border.finditer(text, start, stop):
        yield from _part(text, start, found.start())
        start = found.end()
    yield from _part(text, start, stop)


def _part(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    part = text[start:stop]
    if part.strip():
        yield start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def _words(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield parts of at most `N_PASSAGE` characters, between words where there are any."""
    while stop - start > N_PASSAGE:
        borders = [found.start() for found in _WORD.finditer(text, start + 1, start + N_PASSAGE)]
        middle = borders[-1] if borders else start + N_PASSAGE
        yield from _part(text, start, middle)
        start = middle
    yield from _part(text, start, stop)
