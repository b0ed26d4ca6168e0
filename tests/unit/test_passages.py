"""Sentences of a text, as citations show them."""

import pytest

from dapq_edge.reading.passages import N_PASSAGE, passages


def shown(text):
    return [text[start:stop] for start, stop in passages(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("One. Two!  Three? Four", ["One.", "Two!", "Three?", "Four"]),
        # a line of a PDF ends anywhere, a paragraph does not
        ("One\nline. Two\n\nThree", ["One\nline.", "Two", "Three"]),
        ('He said "No." Then he left.', ['He said "No.', "Then he left."]),
        ("一。二。", ["一。", "二。"]),
        ("3.5 km of v1.2", ["3.5 km of v1.2"]),
    ],
)
def test_sentences(text, expected):
    assert shown(text) == expected


def test_a_table_has_its_lines():
    rows = [f"| row {i} | {'x' * 40} |" for i in range(12)]
    assert shown("Before it.\n\n" + "\n".join(rows) + "\n\nBehind it.") == ["Before it.", *rows, "Behind it."]


@pytest.mark.parametrize("text", ["word " * 500, "x" * 2000, "y" * 700 + " " + "z" * 50])
def test_what_has_no_borders_is_cut(text):
    parts = shown(text)
    assert max(map(len, parts)) <= N_PASSAGE
    assert "".join("".join(parts).split()) == "".join(text.split())
