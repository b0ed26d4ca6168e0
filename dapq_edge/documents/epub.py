"""A book in EPUB.

The libraries for it are not kept, or under a licence that does not fit; what is needed are two files of XML.
"""

import posixpath
import zipfile
from typing import Any, BinaryIO
from urllib.parse import unquote, urldefrag

from lxml import etree

from ..errors import DapqError
from .child import Task
from .extract import Extract, listed
from .html import add_html_bytes

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"


def extract(file: BinaryIO, task: Task, result: Extract) -> None:
    """Read the chapters in their order, a part for each heading."""
    result.between = "\n\n"
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        locked = _locked(archive) if ENCRYPTION in names else set()
        missing = []
        for number, name in enumerate(_chapters(archive), start=1):
            if name in locked:
                raise DapqError("is encrypted: a book with DRM cannot be read")
            if name in names:
                add_html_bytes(result, archive.read(name), label=f"chapter {number}")
            else:
                missing.append(name)
    if missing:
        result.notes.append(f"chapters that are missing in the file: {listed(missing)}")


def _chapters(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the files that are read one after the other."""
    place = _tree(archive, CONTAINER).xpath("string(//*[local-name()='rootfile']/@full-path)")
    package = _tree(archive, place)
    files = {item.get("id"): item.get("href", "") for item in package.xpath("//*[local-name()='item']")}
    wanted = [item.get("idref") for item in package.xpath("//*[local-name()='itemref']")]
    folder = posixpath.dirname(place)
    places = (unquote(urldefrag(files[key])[0]) for key in wanted if key in files)
    return [posixpath.normpath(posixpath.join(folder, place)) for place in places]


def _locked(archive: zipfile.ZipFile) -> set[str]:
    """Return the names of files that are encrypted; fonts often are."""
    tree = _tree(archive, ENCRYPTION)
    return {unquote(place) for place in tree.xpath("//*[local-name()='CipherReference']/@URI")}


def _tree(archive: zipfile.ZipFile, name: str) -> Any:
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    return etree.fromstring(archive.read(name), parser)
