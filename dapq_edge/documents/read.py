"""Documents from files of any kind."""

from dataclasses import dataclass
from pathlib import PurePath

from ..errors import DapqError
from .charset import decode
from .document import Document
from .extract import MAX_CHARACTERS, Extract, ranges
from .kinds import Kind, kind_of
from .markdown import add_markdown
from .source import Source, opened, uploaded

# a file called so is expected to be of this kind
EXPECTED = {
    ".pdf": Kind.PDF,
    ".docx": Kind.OFFICE,
    ".pptx": Kind.OFFICE,
    ".xlsx": Kind.OFFICE,
    ".epub": Kind.OFFICE,
}


@dataclass(frozen=True)
class Reading:
    """Settings of reading files.

    Attributes:
        password: Of PDFs that are encrypted.
        ocr: Whether pages without text are read by Tesseract.
    """

    password: str = ""
    ocr: bool = False


PLAIN = Reading()


def read_document(path: str, reading: Reading = PLAIN) -> Document:
    """Read a file, or stdin if `path` is "-".

    Raises `DapqError` if it cannot be read, is of no kind that is known, is damaged, takes too much time or memory, or
    has no text.
    """
    with opened(path) as source:
        return _document(source, reading)


def read_upload(data: bytes, name: str, charset: str = "", reading: Reading = PLAIN) -> Document:
    """Read the bytes of a file called `name`, whose sender names a charset. Raises as `read_document` does."""
    with uploaded(data, name, charset) as source:
        return _document(source, reading)


def _document(source: Source, reading: Reading) -> Document:
    try:
        kind = kind_of(source.head(), source.name, source.tail())
        extract = _text(source, kind) if kind in (Kind.TEXT, Kind.MARKDOWN) else _parsed(source, kind, reading)
        expected = EXPECTED.get(PurePath(source.name).suffix.lower(), kind)
        if kind != expected:
            extract.notes.insert(0, f"is read as {kind.value}, whatever its name says")
        document = Document.of(
            source.name, extract.parts, extract.between, [f"{source.name}: {note}" for note in extract.notes]
        )
        if not document.text:
            raise DapqError(_no_text(kind, extract, reading))
    except DapqError as error:
        raise DapqError(f"{source.name} {error.args[0]}") from error
    return document


def _text(source: Source, kind: Kind) -> Extract:
    # characters of four bytes
    if source.n_bytes > 4 * MAX_CHARACTERS:
        raise DapqError(f"has more than {MAX_CHARACTERS // 10**6} million characters: split it")
    text, notes = decode(source.read(), source.charset)
    extract = Extract(between="", notes=notes)
    if kind == Kind.MARKDOWN:
        add_markdown(extract, text)
    else:
        extract.add("", text)
    return extract


def _parsed(source: Source, kind: Kind, reading: Reading) -> Extract:
    # a process is only needed here
    from .parse import parse

    extract = parse(source, kind, reading.password)
    if kind == Kind.PDF:
        if reading.ocr:
            _read_pictures(source, extract, reading)
        extract.note_empty("pages")
    return extract


def _read_pictures(source: Source, extract: Extract, reading: Reading) -> None:
    """Read the pages without text by OCR."""
    from .parse import parse_picture
    from .tesseract import check_tesseract, languages

    empty = extract.empty()
    if not empty:
        return
    check_tesseract()
    for number in empty:
        label, _ = extract.parts[number - 1]
        try:
            extract.parts[number - 1] = (label, parse_picture(source, number - 1, reading.password))
        except DapqError as error:
            extract.notes.append(f"{label} {error.args[0]}")
    extract.notes.append(f"read by OCR, in {languages()}: pages {ranges(empty)}")


def _no_text(kind: Kind, extract: Extract, reading: Reading) -> str:
    if kind == Kind.PDF and extract.parts and not reading.ocr:
        return "has no text: its pages are pictures, which `ocr` reads"
    return "has no text"
