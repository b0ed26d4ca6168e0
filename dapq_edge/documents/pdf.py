"""A PDF."""

import re
from typing import BinaryIO

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from ..errors import DapqError
from .child import Task
from .extract import Extract, ranges
from .fields import field_lines
from .markers import place_markers

MAX_PAGES = 20_000

# what PDFium writes for a hyphen at the end of a line, and one that only breaks words
_BROKEN = re.compile(r"\b(\w+)\x02\s*(\w+)")
_BREAK = re.compile(r"(?<=\w)\u2010\n(?=\w)")

# letters of a part of a word that can stand alone
MIN_PART = 4
_WORD = re.compile(r"\w+(?:-\w+)*")


def extract(file: BinaryIO, task: Task, result: Extract) -> None:
    """Read the pages, and the fields of forms behind each."""
    with open_pdf(file, task.password) as document:
        n_pages = len(document)
        if n_pages > MAX_PAGES:
            raise DapqError(f"has more than {MAX_PAGES:,} pages: split it")
        if document.get_formtype() in (pdfium_c.FORMTYPE_XFA_FULL, pdfium_c.FORMTYPE_XFA_FOREGROUND):
            result.notes.append("is an XFA form, whose fields may be missing")
        document.init_forms()
        texts, failed = [], []
        for index in range(n_pages):
            text = _page_text(document, index)
            failed += [index + 1] if text is None else []
            texts.append(text or "")
        if len(failed) == n_pages:
            raise DapqError("is a PDF that cannot be read: its pages are damaged")
        if failed:
            result.notes.append(f"damaged pages are not read: {len(failed)} of {n_pages} ({ranges(failed)})")
        n_files = document.count_attachments()
        if n_files:
            result.notes.append(f"attached files are not read ({n_files})")
    # the halves of a word that was cut are none
    words = set(_WORD.findall(_BROKEN.sub(" ", " ".join(texts))))
    for index, text in enumerate(texts):
        result.add(f"p. {index + 1}", _BROKEN.sub(lambda found: _rejoined(found, words), text).replace("\x02", "-"))


def open_pdf(file: BinaryIO, password: str) -> pdfium.PdfDocument:
    """Open a file. Raises `DapqError` if it is damaged, or its password is wrong."""
    try:
        return pdfium.PdfDocument(file, password=password or None)
    except pdfium.PdfiumError as error:
        if error.err_code == pdfium_c.FPDF_ERR_PASSWORD:
            raise DapqError(
                "has another password: the one of `password` is wrong"
                if password
                else "is encrypted: give its password with `password`"
            ) from error
        if error.err_code == pdfium_c.FPDF_ERR_SECURITY:
            raise DapqError("is encrypted in a way that cannot be read") from error
        raise DapqError("is a PDF that cannot be read: it is damaged") from error


def _page_text(document: pdfium.PdfDocument, index: int) -> str | None:
    """Return the text of a page, or nothing if it is damaged."""
    try:
        page = document[index]
        content = page.get_textpage()
        text = place_markers(content, content.get_text_bounded().replace("\r\n", "\n"))
    except pdfium.PdfiumError:
        return None
    lines = [_BREAK.sub("", text).strip(), *field_lines(document, page)]
    page.close()
    return "\n".join(line for line in lines if line)


def _rejoined(found: "re.Match[str]", words: set[str]) -> str:
    """Put a word together that a line break cut; it keeps its hyphen if that seems to be its own."""
    first, second = found.groups()
    if f"{first}{second}" in words:
        return f"{first}{second}"
    # of 9,000 words that were cut in English texts, 2% are two words of the text
    are_words = min(len(first), len(second)) >= MIN_PART and first in words and second in words
    keeps = f"{first}-{second}" in words or are_words or not second[0].islower() or first[-1].isdigit()
    return f"{first}-{second}" if keeps else f"{first}{second}"
