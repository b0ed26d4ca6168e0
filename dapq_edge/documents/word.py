"""A Word document."""

import io
import re
import zipfile
from typing import Any, BinaryIO

import mammoth

from .child import Task
from .extract import Extract
from .html import add_html

# what stands in other files of the package, and is not a part of the text
BESIDE = {"header": "headers", "footer": "footers", "comments": "comments"}

_LETTER = re.compile(rb"<w:t(?: [^>]*)?>\s*[^<\s]")
_FORMULA = re.compile(rb"<m:oMath[ >]")


def extract(file: BinaryIO, task: Task, result: Extract) -> None:
    """Read the text with its notes, a part for each heading."""
    result.between = ""
    # it takes the number of an open file for its name
    html = mammoth.convert_to_html(io.BytesIO(file.read()), convert_image=mammoth.images.img_element(_no_picture)).value
    # the arrow leads back from a footnote
    add_html(result, re.sub(r'<a href="#(?:foot|end)note-ref[^>]*>↑</a>', "", html))
    result.notes += _left_out(file)


def _no_picture(_: Any) -> dict[str, str]:
    return {"src": ""}


def _left_out(file: BinaryIO) -> list[str]:
    """Return notes about what has text and is not read."""
    found = set()
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            part = re.fullmatch(r"word/([a-z]+)\d*\.xml", name)
            if part and part[1] in BESIDE and _LETTER.search(archive.read(name)):
                found.add(BESIDE[part[1]])
            if part and part[1] == "document" and _FORMULA.search(archive.read(name)):
                found.add("formulas")
    return [f"{', '.join(sorted(found))} are not read"] if found else []
