"""Kinds of files, by their first bytes, and by their names where these say nothing."""

import re
from enum import Enum
from pathlib import PurePath

from ..errors import DapqError
from .charset import has_mark

# bytes that are looked at; a PDF may begin within the first 1024
HEAD = 4096


class Kind(Enum):
    """Kind of a file; the value is what people call it."""

    TEXT = "text"
    MARKDOWN = "Markdown"
    HTML = "HTML"
    PDF = "a PDF"
    OFFICE = "a ZIP file"
    MAIL = "a mail"


# documents that are not read, so that people know what to do
OLD = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "is an old Office file, or has a password: save it as docx, xlsx or PDF",
    b"{\\rtf": "is RTF: save it as docx or PDF",
    b"%!PS": "is PostScript: make a PDF of it, e.g. with ps2pdf",
}
# and what is none
OTHER = {
    **dict.fromkeys((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), "is a picture: make a PDF of it"),
    **dict.fromkeys((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!"), "is compressed: unpack it"),
}

ZIP = (b"PK\3\4", b"PK\5\6")

SUFFIXES = {
    ".md": Kind.MARKDOWN,
    ".markdown": Kind.MARKDOWN,
    ".html": Kind.HTML,
    ".htm": Kind.HTML,
    ".xhtml": Kind.HTML,
    ".eml": Kind.MAIL,
    ".mht": Kind.MAIL,
    ".mhtml": Kind.MAIL,
}

# each has one way to match, so that no head takes long
_PDF = re.compile(rb"%PDF-\d")
_SPACE = rb"(?:\xef\xbb\xbf|\s|<!--(?:(?!-->).)*-->|<\?xml(?:(?!\?>).)*\?>)*"
_HTML = re.compile(_SPACE + rb"<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
_MAIL = re.compile(rb"(?:[!-9;-~]+:[^\n]*\n(?:[ \t][^\n]*\n)*)*?MIME-Version:", re.IGNORECASE)


def kind_of(head: bytes, name: str, tail: bytes = b"") -> Kind:
    """Return the kind of a file. Raises `DapqError` if it is known to be none that can be read.

    Args:
        head: Its first `HEAD` bytes.
        name: Of the file.
        tail: Its last bytes.
    """
    for start, reason in (OLD | OTHER).items():
        if head.startswith(start):
            raise DapqError(reason)
    suffix = PurePath(name).suffix.lower()
    if _is_pdf(head, suffix, tail):
        return Kind.PDF
    if head.startswith(ZIP):
        return Kind.OFFICE
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if _HTML.match(_narrow(head)):
        return Kind.HTML
    return Kind.MAIL if _MAIL.match(head) else Kind.TEXT


def is_binary(head: bytes) -> bool:
    """Return whether a file that begins so is no document."""
    if head.startswith(tuple(OTHER)):
        return True
    is_known = head.startswith((*OLD, *ZIP)) or _PDF.search(head[:1024]) or has_mark(head)
    return b"\0" in head and not is_known


def _is_pdf(head: bytes, suffix: str, tail: bytes) -> bool:
    """A text may speak of PDF; a file that has something before its header says so at its end."""
    found = _PDF.search(head[:1024])
    return bool(found and (head.lstrip().startswith(b"%PDF") or suffix == ".pdf" or b"startxref" in tail))


def _narrow(head: bytes) -> bytes:
    """Return the Latin letters of UTF-16."""
    return head[2:].replace(b"\0", b"") if has_mark(head) and b"\0" in head else head
