"""A ZIP file: the office formats and EPUB."""

import re
import zipfile
from importlib import import_module
from typing import BinaryIO

from ..counts import count
from ..errors import DapqError
from .child import Task
from .extract import Extract

# bytes of all that is packed; pictures are packed, too
MAX_UNPACKED = 400 * 2**20
MAX_MEMBERS = 20_000

# what a file says about its main part, and what reads it
MODULES = {
    b"wordprocessingml": "word",
    b"ms-word": "word",
    b"presentationml": "slides",
    b"ms-powerpoint": "slides",
    b"spreadsheetml": "sheets",
    b"ms-excel": "sheets",
}
_MAIN = re.compile(rb"(%s)\.[\w.]*\bmain\b" % b"|".join(MODULES))
NAMES = {"word": "a Word document", "slides": "a presentation", "sheets": "a workbook", "epub": "a book"}
TYPES = "[Content_Types].xml"


def extract(file: BinaryIO, task: Task, result: Extract) -> None:
    """Read a file of any of the formats. Raises `DapqError` if it is none of them, or a bomb."""
    try:
        with zipfile.ZipFile(file) as archive:
            _check_size(archive)
            module = _module(archive)
    except zipfile.BadZipFile as error:
        raise DapqError(f"is a ZIP file that cannot be read: {error}") from error
    result.kind = NAMES[module]
    file.seek(0)
    import_module(f".{module}", __package__).extract(file, task, result)


def _check_size(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    n_bytes = sum(member.file_size for member in members)
    if n_bytes > MAX_UNPACKED or len(members) > MAX_MEMBERS:
        raise DapqError(f"unpacks to {n_bytes / 2**20:,.0f} MiB in {count(len(members), 'file')}, which is too much")
    if any(member.flag_bits & 1 for member in members):
        raise DapqError("is a ZIP file with a password: unpack it")


def _module(archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    if TYPES in names:
        found = _MAIN.search(archive.read(TYPES))
        if found:
            return MODULES[found[1]]
        raise DapqError("is an Office file of a kind that is not read: give docx, pptx or xlsx")
    kind = archive.read("mimetype")[:100].decode("ascii", "replace") if "mimetype" in names else ""
    if "META-INF/container.xml" in names and "opendocument" not in kind:
        return "epub"
    if "opendocument" in kind:
        raise DapqError("is an OpenDocument file: save it as docx, pptx, xlsx or PDF")
    raise DapqError("is a ZIP file: unpack it, and give the folder")
