"""Documents that other programs made, and their words."""

import re
from pathlib import Path

DATA = Path(__file__).parents[1] / "data/documents"

# signs of layout and of Markdown, whichever program draws them
_SIGNS = re.compile(r"[|#*_>\[\]\\\u2010\u2013\u2014\u2022\-\"\u201c\u201d]+|^\s*[-=+:| ]{4,}$", re.MULTILINE)
_CJK = r"[\u3000-\u30ff\u4e00-\u9fff]"
_TORN = re.compile(rf"(?<={_CJK})\s+(?={_CJK})")


def words(text: str) -> list[str]:
    """The words with the signs of a sentence; a line of Chinese letters has no spaces."""
    text = _SIGNS.sub(" ", text).replace("\u2019", "'")
    return _TORN.sub("", text).split()


def cells(text: str) -> list[str]:
    """The words of a table, whatever separates its cells."""
    return words(text.replace(";", " ").replace(",", " "))


def source(name: str) -> list[str]:
    """The words that a file was made from."""
    key = Path(name).stem.rpartition("-")[-1]
    path = DATA / "sources" / (f"{key}.csv" if key == "stock" else f"{key}.md")
    text = path.read_text()
    return cells(text) if key == "stock" else words(text)


def found(name: str, text: str) -> list[str]:
    """The words of what was read, to be compared with those of its source."""
    return cells(text) if Path(name).stem.endswith("-stock") else words(text)
