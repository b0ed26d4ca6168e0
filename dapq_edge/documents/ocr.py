"""A page of a PDF that is a picture."""

from typing import BinaryIO

import pypdfium2 as pdfium

from .child import Task
from .extract import Extract
from .pdf import open_pdf
from .tesseract import read_picture

# dots an inch; Tesseract wants no more
DPI = 300
MAX_PIXELS = 25_000_000


def extract(file: BinaryIO, task: Task, result: Extract) -> None:
    """Read one page with Tesseract."""
    with open_pdf(file, task.password) as document:
        picture = _picture(document[task.page])
    result.add("", read_picture(picture, DPI))


def _picture(page: pdfium.PdfPage) -> bytes:
    """Draw a page in shades of grey, as a PNM file."""
    width, height = page.get_size()
    scale = min(DPI / 72, (MAX_PIXELS / max(1.0, width * height)) ** 0.5)
    bitmap = page.render(scale=scale, grayscale=True)
    rows = bytes(bitmap.buffer)
    lines = (rows[i * bitmap.stride : i * bitmap.stride + bitmap.width] for i in range(bitmap.height))
    return b"P5 %d %d 255\n" % (bitmap.width, bitmap.height) + b"".join(lines)
