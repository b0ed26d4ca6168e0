"""Tables of a text: CSV, Markdown, HTML. Their first lines say what the columns are, so that they go with every row."""

import csv
import re
from collections.abc import Iterator

# rows that a table of delimiters has at least, and characters of a row at most
MIN_ROWS, MAX_ROW = 4, 1000

DELIMITERS = ",;\t|"

_LINE = re.compile(r"[^\r\n]+")
_MARKDOWN_RULE = re.compile(r"\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?\s*$")
_HTML = re.compile(r"<table\b.*?(?:</table\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_HTML_HEADER = re.compile(r"</thead\s*>|</tr\s*>", re.IGNORECASE)

# characters: where a table starts, where its first lines end, and where it stops
TableSpan = tuple[int, int, int]


def find_tables(text: str) -> list[TableSpan]:
    """Return the tables of a text, in order."""
    html = [(table.start(), _html_header(table), table.end()) for table in _HTML.finditer(text)]
    plain = [table for table in _plain_tables(text) if not any(start <= table[0] < stop for start, _, stop in html)]
    return sorted(html + plain)


def _html_header(table: re.Match[str]) -> int:
    header = _HTML_HEADER.search(table[0])
    return table.start() + header.end() if header else table.start()


def _plain_tables(text: str) -> Iterator[TableSpan]:
    """Yield runs of lines with the same delimiters."""
    run: list[re.Match[str]] = []
    kind: tuple[str, int] | None = None
    for line in _LINE.finditer(text):
        # the rule below a header has the form of its row, or not
        if run and _is_rule(line[0]) and "|" in line[0]:
            run.append(line)
            continue
        if kind is None or _count(line[0], kind[0]) != kind[1]:
            yield from _table(run)
            run, kind = [], _kind(line[0])
        if kind:
            run.append(line)
    yield from _table(run)


def _table(run: list[re.Match[str]]) -> Iterator[TableSpan]:
    if len(run) >= MIN_ROWS:
        header = run[1] if _is_rule(run[1][0]) else run[0]
        yield run[0].start(), header.end(), run[-1].end()


def _is_rule(line: str) -> bool:
    return bool(_MARKDOWN_RULE.match(line))


def _kind(line: str) -> tuple[str, int] | None:
    """Return the delimiter of a row, and how many fields it makes; None for a line that is no row, but a sentence."""
    if line.rstrip().endswith((".", "!", "?")):
        return None
    counts = {delimiter: _count(line, delimiter) for delimiter in DELIMITERS}
    best = max(counts, key=lambda delimiter: counts[delimiter])
    return (best, counts[best]) if counts[best] > 1 else None


def _count(line: str, delimiter: str) -> int:
    """Return the fields of a line; 0 for one that is too long for a row."""
    # people write a space behind a comma
    if len(line) > MAX_ROW or (delimiter in ",;" and f"{delimiter} " in line and '"' not in line):
        return 0
    if '"' not in line:
        return line.count(delimiter) + 1
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return 0
