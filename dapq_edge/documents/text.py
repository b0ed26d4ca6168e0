"""Documents to text: plain text, Markdown, HTML, PDF."""

import io
import logging
import sys
from pathlib import Path

from ..errors import DapqError

STDIN = "-"


def read_document(path: str) -> str:
    """Text of a file, or of stdin if `path` is "-".

    PDF and HTML are recognized by their first bytes or the file name. Raises `DapqError` if the file cannot be read,
    has no text, or is neither PDF nor UTF-8 text.
    """
    return document_text(*_read_bytes(path))


def document_text(data: bytes, name: str) -> str:
    """Text of the bytes of a file called `name`. Raises as `read_document` does."""
    if data.startswith(b"%PDF"):
        text = _pdf_text(data, name)
    elif _is_html(data, name):
        text = _html_text(_decode(data, name))
    else:
        text = _decode(data, name)
    if not text.strip():
        raise DapqError(f"{name} has no text")
    return text


def _read_bytes(path: str) -> tuple[bytes, str]:
    if path == STDIN:
        return sys.stdin.buffer.read(), "stdin"
    try:
        return Path(path).read_bytes(), path
    except OSError as error:
        raise DapqError(f"cannot read {path}: {error.strerror}") from error


def _decode(data: bytes, name: str) -> str:
    if b"\0" in data:
        raise DapqError(f"{name} is binary: give text, Markdown, HTML or PDF")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DapqError(f"{name} is not UTF-8 (byte {error.start}): convert it, e.g. with iconv -t utf-8") from error


def _is_html(data: bytes, name: str) -> bool:
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return name.lower().endswith((".html", ".htm")) or start.startswith((b"<!doctype html", b"<html"))


def _html_text(html: str) -> str:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for tag in soup(["script", "style", "noscript", "template"]):
        tag.decompose()
    lines = (line.strip() for line in soup.get_text("\n").splitlines())
    return "\n".join(line for line in lines if line)


def _pdf_text(data: bytes, name: str) -> str:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise DapqError("PDF needs pypdf: run EXTRAS=pdf ./scripts/setup.sh") from error

    # its warnings about slightly broken files are of no use to the reader
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        text = "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(data)).pages)
    except (PyPdfError, ValueError, KeyError, TypeError, RecursionError) as error:
        # pypdf lets the errors of a broken file through as they come
        raise DapqError(f"{name} is a PDF that cannot be read: {error}") from error
    if not text.strip():
        raise DapqError(f"{name} has no text: a scanned PDF has to go through OCR first")
    return text
