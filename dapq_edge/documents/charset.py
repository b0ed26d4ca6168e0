"""Bytes to characters."""

import codecs
import re

from ..errors import DapqError

# longest first: the mark of UTF-32 begins with that of UTF-16
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# what browsers take for these names, as they hold more characters
WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}

# bytes that are looked at for a guess
SAMPLE = 2**18

# how much of a text has the letters that its language should have, so that a guess is sure
SURE = 0.3

_LETTERS = re.compile(rb"[\x80-\xff]")


def decode(data: bytes, declared: str = "") -> tuple[str, list[str]]:
    """Return the text of bytes, and notes about it.

    The mark at its start counts, then what is declared, then UTF-8, then a guess that is sure.

    Raises `DapqError` if it is no text, or none that can be guessed.
    """
    for mark, name in MARKS:
        if data.startswith(mark):
            return _replaced(data[len(mark) :], name)
    name = _codec(declared)
    if name and not (name.startswith(("utf-16", "utf-32")) and b"\0" not in data):
        return _replaced(data, name)
    if b"\0" in data:
        return _without_mark(data)
    try:
        return data.decode(), []
    except UnicodeDecodeError as error:
        return _guessed(data, error)


def has_mark(data: bytes) -> bool:
    """Return whether bytes begin with a mark that says how they are encoded."""
    return data.startswith(tuple(mark for mark, _ in MARKS))


def _codec(declared: str) -> str:
    """Return the codec of a name that a file gives, or nothing if there is none."""
    try:
        name = codecs.lookup(declared).name if declared else ""
        # some codecs are no charsets
        b"a".decode(name or "ascii")
    except (LookupError, ValueError):
        return ""
    return WIDER.get(name, name)


def _replaced(data: bytes, name: str) -> tuple[str, list[str]]:
    text = data.decode(name, "replace")
    n_bad = text.count("\ufffd") if _fails(data, name) else 0
    return text, [f"what is not {name} is shown as \ufffd ({n_bad:,})"] if n_bad else []


def _fails(data: bytes, name: str) -> bool:
    try:
        data.decode(name)
    except UnicodeDecodeError:
        return True
    return False


def _without_mark(data: bytes) -> tuple[str, list[str]]:
    """UTF-16 that does not say so has a zero in every other byte of what is Latin."""
    sample = data[: SAMPLE & ~1]
    for name, zeros, others in (("utf-16-le", sample[1::2], sample[::2]), ("utf-16-be", sample[::2], sample[1::2])):
        is_text = zeros.count(0) > 0.7 * len(zeros) and others.count(0) == 0 and len(data) % 2 == 0
        if is_text and not _fails(data, name):
            return data.decode(name), [f"has no byte order mark: read as {name}"]
    raise DapqError("is binary: give text, Markdown, HTML, PDF, docx, pptx, xlsx, epub or eml")


def _guessed(data: bytes, error: UnicodeDecodeError) -> tuple[str, list[str]]:
    from charset_normalizer import from_bytes

    refused = DapqError(f"is not UTF-8 (byte {error.start}): convert it, e.g. with iconv -t utf-8")
    first = _LETTERS.search(data)
    start = max(0, (first.start() if first else 0) - SAMPLE // 2)
    matches = list(from_bytes(data[start : start + SAMPLE]))
    # what fits as well as the best one, and gives another text
    best = [match for match in matches if (match.chaos, match.coherence) == (matches[0].chaos, matches[0].coherence)]
    if not matches or (matches[0].coherence < SURE and len(matches) > 1):
        raise refused from error
    names = [name for match in best for name in match.could_be_from_charset]
    name = "cp1252" if "cp1252" in names else names[0]
    if _fails(data, name):
        raise refused from error
    return data.decode(name), [f"is not UTF-8: read as {name.replace('cp125', 'windows-125')}, which is a guess"]
