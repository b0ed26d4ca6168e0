"""Documents that LibreOffice, Chromium, pandoc, WeasyPrint, qpdf, Ghostscript and others made, against their sources.

`tests/data/documents/make.sh` makes them.
"""

import difflib
import shutil

import pytest
from helpers.documents import DATA, found, source

from dapq_edge.documents.read import Reading, read_document

PICTURES = "scanned-en.pdf"
FILES = sorted(path.name for path in (DATA / "made").iterdir() if path.name != PICTURES)

# what the programs themselves write beside the text, or leave out: what is in the source, and what is in the file
BESIDE = {
    # the name of the sheet, and a header and a footer of the page
    "calc-stock.pdf": [("", "stock Page 1")],
    "calc-stock.xlsx": [("", "stock")],
    "calc-again-stock.xlsx": [("", "stock")],
    # the number of the page
    "groff-en.pdf": [("", "1")],
    "writer-de.pdf": [("", "1")],
    "qpdf-aes-de.pdf": [("", "1")],
    "mime-construct-de.eml": [("", "From: office@example.org To: port@example.org Subject: Bericht")],
    "mime-construct-html-en.eml": [("", "From: office@example.org To: port@example.org Subject: Report")],
    "mime-construct-ru.eml": [("", "From: office@example.org To: port@example.org Subject: Report")],
    # the head of a table again on the next page
    "weasyprint-columns-en.pdf": [("", "Ship Length Fee")],
    # the title of the page
    "writer-ru.xhtml": [("", "no title specified")],
    # LibreOffice writes neither the head of the table nor numbers
    "writer-ru.epub": [("Судно Длина Сбор", ""), ("1.", ""), ("2.", "")],  # noqa: RUF001
}

# a hyphen at the end of a line may be one of the word or not: nothing in the file tells
HYPHENS = {
    name: [("harbour master's", "harbourmaster's")]
    for name in ("chromium-columns-en.pdf", "qpdf-linear-en.pdf", "qpdf-password-en.pdf", "writer-en.pdf")
}


def differences(name: str, text: str) -> list[tuple[str, str]]:
    wanted, is_there = source(name), found(name, text)
    steps = difflib.SequenceMatcher(None, wanted, is_there, autojunk=False).get_opcodes()
    return [(" ".join(wanted[i:j]), " ".join(is_there[k:l])) for kind, i, j, k, l in steps if kind != "equal"]  # noqa: E741


def read(name: str, **options: bool):
    return read_document(str(DATA / "made" / name), Reading("reader" if "password" in name else "", **options))


def test_there_are_enough():
    assert len(FILES) >= 40
    assert len({name.rpartition(".")[-1] for name in FILES}) >= 10


@pytest.mark.parametrize("name", FILES)
def test_words_are_those_of_the_source(name):
    document = read(name)
    assert differences(name, document.text) == BESIDE.get(name, HYPHENS.get(name, []))
    assert all(note.startswith(document.name) for note in document.notes)


def test_pages_are_where_they_say():
    for name in FILES:
        document = read(name)
        assert document.text == document.text.strip()
        spans = [(page.start, page.stop) for page in document.pages]
        assert spans == sorted(spans)
        # nothing but space is between pages
        assert "".join("".join(map(document.text_of, document.pages)).split()) == "".join(document.text.split())


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("chromium-columns-en.pdf", ["p. 1", "p. 2"]),
        ("pandoc-en.pptx", ["slide 1", "slide 2"]),
        ("calc-stock.xlsx", ["sheet stock, rows 1-5"]),
        ("calc-stock.csv", [""]),
        ("pandoc-ja.docx", ["港湾事務所の最終報告", "岸壁の料金", "決定事項"]),
        ("writer-de.html", ["Jahresbericht der Hafenbehörde", "Gebührenordnung", "Beschlüsse"]),
        ("pandoc-en.epub", ["The final report of the harbour office", "Fees for the quay", "What was decided"]),
        ("mime-construct-de.eml", ["header", "text"]),
    ],
)
def test_labels(name, labels):
    assert [page.label for page in read(name).pages] == labels


def test_what_is_said():
    assert "windows-1252, which is a guess" in read("iconv-windows-1252-de.txt").notes[0]
    assert "koi8_r, which is a guess" in read("iconv-koi8-r-ru.txt").notes[0]
    assert "footers are not read" in read("writer-de.docx").notes[0]
    assert "attached files are not read (a.pdf)" in read("mime-construct-html-en.eml").notes[0]
    for name in ("iconv-utf-16-ja.txt", "iconv-windows-1252-de.html", "chromium-de.pdf", "pandoc-en.docx"):
        assert read(name).notes == ()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("tesseract"), reason="needs Tesseract")
def test_pages_that_are_pictures():
    document = read(PICTURES, ocr=True)
    matched = difflib.SequenceMatcher(None, source(PICTURES), found(PICTURES, document.text), autojunk=False)
    assert matched.ratio() > 0.95
    assert "read by OCR" in document.notes[0]
    assert "pages 1" in document.notes[0]
