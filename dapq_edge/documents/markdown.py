"""Parts of a text: what stands under each heading."""

import re
from collections.abc import Iterator

from .extract import Extract

_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")

# before a heading in a text that was made here
MARK = "\ue000"


def add_markdown(extract: Extract, text: str) -> None:
    """Add a Markdown text, a part for each heading."""
    _add_parts(extract, text, list(_headings(text)))


def add_marked(extract: Extract, text: str, label: str = "", title: str = "") -> None:
    """Add a text whose headings begin with `MARK`, a part for each; what is before the first one is called `label`.

    title: Stands before the text. It is no part of its own.
    """
    places, plain, place = [], [], 0
    before, *rest = text.split(MARK)
    plain.append(before)
    for part in rest:
        place += len(plain[-1])
        places.append((place, part.partition("\n")[0].strip() or label))
        plain.append(part)
    moved = [(start + len(title) if start else 0, name) for start, name in places]
    _add_parts(extract, title + "".join(plain), moved, label)


def _add_parts(extract: Extract, text: str, places: list[tuple[int, str]], label: str = "") -> None:
    """Cut a text at `places`, which are characters with labels."""
    borders = [(0, label), *places]
    stops = [start for start, _ in borders[1:]] + [len(text)]
    for (start, name), stop in zip(borders, stops, strict=True):
        if text[start:stop].strip():
            extract.add(name, text[start:stop])


def _headings(text: str) -> Iterator[tuple[int, str]]:
    """Yield characters where a heading starts, and the heading; a fenced block of code has none."""
    place, fence = 0, ""
    for line in text.splitlines(keepends=True):
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and found[1].startswith(fence):
            fence = ""
        heading = None if fence else _HEADING.match(line.rstrip())
        title = heading[1].rstrip(" \t#") if heading else ""
        if title:
            yield place, title
        place += len(line)
