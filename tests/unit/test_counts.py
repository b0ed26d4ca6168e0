"""Numbers in words, and that nothing says "1 windows"."""

import re

from helpers.paths import ROOT

from dapq_edge.counts import count, have

# what may be one, as it is written before a plural
PLURAL = re.compile(r"\{(?:len\(|\w*\.?n_)[^{}]*\} (?:windows|chunks|pages|files|turns|requests)\b")


def test_count():
    assert [count(n, "window") for n in (0, 1, 2, 2048)] == ["0 windows", "1 window", "2 windows", "2,048 windows"]
    assert [have(n) for n in (0, 1, 2)] == ["have", "has", "have"]


def test_no_message_has_a_plural_of_one():
    """Pages are counted only where there are several."""
    found = [
        (path.name, line.strip())
        for path in (ROOT / "dapq_edge").rglob("*.py")
        for line in path.read_text().splitlines()
        if PLURAL.search(line)
    ]
    assert {name for name, _ in found} <= {"sources.py"}, found
