"""Documents: what becomes text, what is said, and what is refused in one line."""

import io
import os
import shutil
import subprocess
import time
import zipfile
from email.message import EmailMessage

import pytest
from helpers.documents import DATA
from helpers.hostile import CONTAINER, archive, epub, replaced
from helpers.pdfs import pdf_of

from dapq_edge.documents.read import Reading, read_document, read_upload
from dapq_edge.errors import DapqError

FACT = b"The access code of the harbour office is 48213."


def read(data: bytes, name: str, charset: str = "", **options):
    return read_upload(data, name, charset, Reading(**options))


def text_of(data: bytes, name: str, charset: str = "", **options) -> str:
    return read(data, name, charset, **options).text


def test_text_and_markdown(tmp_path):
    for name, data in (("a.txt", "naïve"), ("b.md", "# Title\n\ntext"), ("c", "\ufeffwith a BOM")):
        (tmp_path / name).write_text(data, encoding="utf-8")
        assert read_document(str(tmp_path / name)).text == data.lstrip("\ufeff")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("a \ufb01ne o\ufb03ce, \ufb05", "a fine office, st"),
        ("har\u00adbour har\u00ad\n  bour", "harbour harbour"),
        ("one\r\ntwo\rthree\n", "one\ntwo\nthree"),
        # these say something of their own
        ("x\u00b2 \uff21 \u2460 \u2122", "x\u00b2 \uff21 \u2460 \u2122"),
    ],
)
def test_characters(data, text):
    assert text_of(data.encode(), "a.txt") == text
    assert text_of(f"<html><pre>{data}</pre>".encode(), "a.html", "utf-8") == text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.html"])
def test_utf_16(encoding, name):
    text = "The access code is 48213, in the Größe of 12."
    found = read((f"<html><p>{text}" if name == "a.html" else text).encode(encoding), name)
    if encoding in ("utf-16", "utf-32"):
        assert found.text == text
        assert found.notes == ()
    elif name == "a.txt":
        assert found.text == text
        assert f"read as {encoding}" in found.notes[0]


def test_charsets():
    german = "Die Größe der Türen wäre für Müller schön, und über die Straße führt der Weg zum Bäcker. "
    found = read((german * 3).encode("cp1252"), "a.txt")
    assert found.text == (german * 3).strip()
    assert "windows-1252, which is a guess" in found.notes[0]
    # what the sender says is no guess
    found = read(german.encode("cp1252"), "a.txt", "iso-8859-1")
    assert (found.text, found.notes) == (german.strip(), ())
    assert text_of("Öl für 5 €".encode("iso-8859-15"), "a", "iso-8859-15") == "Öl für 5 €"
    # nobody can tell
    with pytest.raises(DapqError, match=r"is not UTF-8 \(byte 3\)"):
        read(b"caf\xe9", "a.txt")
    for no_charset in ("rot13", "zlib", "nothing", "utf-16"):
        assert text_of("Größe".encode(), "a.txt", no_charset) == "Größe"
    assert "shown as \ufffd (1)" in read(b"a\xffb", "a.txt", "utf-8").notes[0]


def test_markdown_pages():
    text = "before\n\n# One #\na\n```sh\n# a comment\n```\n## Two\nb\n#no heading\n"
    found = read(text.encode(), "a.md")
    assert [(page.label, found.text_of(page)) for page in found.pages] == [
        ("part 1", "before\n\n"),
        ("One", "# One #\na\n```sh\n# a comment\n```\n"),
        ("Two", "## Two\nb\n#no heading"),
    ]
    # elsewhere it is a comment
    assert len(read(text.encode(), "a.sh").pages) == 1


HTML = b"""<!-- a comment first --><!DOCTYPE html>
<html><head><title>Tides</title><style>p{}</style><script>x()</script></head><body><!-- no --><header>top</header>
<main>mid</main><p>o<b>n</b>e &amp; t<i>w</i>o<?php x ?>three</p><h2>Fees <i>now</i></h2>
<table><caption>All</caption><tr><th>Ship<th>Fee<tr><td>Sea<br>W<b>ol</b>f<td>95</table>
<ul><li>a<li>b</ul><p hidden>secret</p><p style="display : none">secret</p><img alt="a map"><template>no</template>
"""


@pytest.mark.parametrize(
    ("html", "labels", "text"),
    [
        # a title is no page of its own
        ("<title>Tides</title><h1>Fees</h1><p>95<h2>Ships</h2>Wolf", ["Fees", "Ships"], "Tides\nFees\n\n95"),
        ("<title>Tides</title><p>95<h2>Ships</h2>Wolf", ["Tides", "Ships"], "Tides\n95"),
        ("<title>Ships</title><p>95<h2>Ships</h2>Wolf", ["Ships", "Ships"], "95"),
        ("<title>Tides</title><p>95", ["Tides"], "Tides\n95"),
        ("<p>95<h2>Ships</h2>Wolf<h2><img></h2>Sea", ["part 1", "Ships", "part 3"], "95"),
        ("<p>95", [""], "95"),
    ],
)
def test_html_parts_have_labels(html, labels, text):
    found = read(f"<!DOCTYPE html>{html}".encode(), "a.html")
    assert [page.label for page in found.pages] == labels
    assert found.text_of(found.pages[0]).rstrip() == text
    assert found.pages[0].start == 0


def test_html():
    found = read(HTML, "page.txt")
    assert found.text.split("\n") == [
        *("Tides", "top", "mid", "", "one & twothree", "", "Fees now", ""),
        *("All", "| Ship | Fee |", "| --- | --- |", "| Sea Wolf | 95 |", "", "  * a", "  * b", "[a map]"),
    ]
    assert [page.label for page in found.pages] == ["Tides", "Fees now"]
    assert found.text_of(found.pages[1]).startswith("Fees now\n")
    assert found.notes == ("page.txt: hidden parts are not read (2)",)
    layout = b"<table><tr><td><h2>Left</h2><p>one</p><td><table><tr><td>1<td>2</table></table>"
    assert text_of(layout, "a.html").split() == ["Left", "one", "|", "1", "|", "2", "|"]


@pytest.mark.parametrize(
    ("head", "charset"),
    [
        ('<meta charset="windows-1252">', ""),
        ('<meta http-equiv="Content-Type" content="text/html; charset=ISO-8859-1">', ""),
        ("", "windows-1252"),
        ('<meta charset="utf-8">', "windows-1252"),
    ],
)
def test_charset_of_html(head, charset):
    found = read(f"<html>{head}<p>Größe “5 €”".encode("cp1252"), "a.html", charset)
    assert found.text == "Größe “5 €”"
    assert found.notes == ()


def test_xhtml():
    page = '<?xml version="1.0" encoding="iso-8859-1"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><p>Größe<br/>x</p></html>'
    assert text_of(page.encode("latin-1"), "a") == "Größe\nx"


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf", b"--b\r\nContent-Type: application/pdf\r\n\r\n", b"x" * 1000])
@pytest.mark.parametrize("name", ["a.pdf", "a"])
def test_pdf(prefix, name):
    found = read(pdf_of(FACT, prefix=prefix), name)
    assert found.text == FACT.decode()
    assert [(page.label, page.start, page.stop) for page in found.pages] == [("p. 1", 0, len(FACT))]
    assert found.notes == ()


def test_a_text_about_pdf_is_a_text():
    text = "A file begins with %PDF-1.7 and a line break."
    assert text_of(text.encode(), "a.txt") == text


def test_pdf_with_pages_that_are_pictures():
    found = read(pdf_of(b"one", b"", b"", b"four"), "a.pdf")
    assert found.notes == ("a.pdf: 2 of 4 pages have no text (2, 3)",)
    assert [found.text_of(page) for page in found.pages] == ["one", "", "", "four"]
    with pytest.raises(DapqError, match=r"a\.pdf has no text: its pages are pictures, which ocr reads"):
        read(pdf_of(b"", b""), "a.pdf")


def test_ligatures_soft_hyphens_and_nothing_in_pdf():
    unicode = b"3 beginbfchar <01> <FB01> <02> <00AD> <03> <0000> endbfchar 1 beginbfrange <20> <7E> <0020> endbfrange"
    lines = b"The \1nal of\1ce code.\nThe har\2\nbour pays the \1ne.\nA\3B"
    assert text_of(pdf_of(lines, unicode=unicode), "a.pdf") == "The final office code.\nThe harbour pays the fine.\nAB"


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (b"the har-\nbour", "the harbour"),
        # as the text has it elsewhere
        (b"long-term, and long-\nterm", "long-term, and long-term"),
        (b"longterm, and long-\nterm", "longterm, and longterm"),
        (b"a harbour and a master: harbour-\nmaster", "a harbour and a master: harbour-master"),
        (b"in Baden-\nBaden", "in Baden-Baden"),
        (b"COVID-\n19", "COVID-19"),
    ],
)
def test_hyphens_at_the_end_of_a_line(lines, text):
    assert text_of(pdf_of(lines), "a.pdf").split() == text.split()


def test_what_was_written_onto_a_page():
    data = pdf_of(b"printed", value=b"x").replace(
        b"/Subtype /Widget /FT /Tx", b"/Subtype /FreeText /Contents (by hand)"
    )
    assert text_of(data, "a.pdf") == "printed\nby hand"


def test_fields_of_a_form():
    assert text_of(pdf_of(b"IBAN of the payer:", value=b"DE00 4821"), "a.pdf") == "IBAN of the payer:\niban: DE00 4821"


def test_password():
    data = (DATA / "made/qpdf-password-en.pdf").read_bytes()
    with pytest.raises(DapqError, match="is encrypted: give its password with password"):
        read(data, "a.pdf")
    with pytest.raises(DapqError, match="the one of password is wrong"):
        read(data, "a.pdf", password="x")
    assert "48213" in text_of(data, "a.pdf", password="reader")
    # the owner's password is for printing
    assert "77310" in text_of((DATA / "made/qpdf-aes-de.pdf").read_bytes(), "a.pdf")


def test_ocr_needs_tesseract(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DapqError, match=r"a\.pdf has pages without text, and ocr needs Tesseract: apt install"):
        read(pdf_of(b"x", b""), "a.pdf", ocr=True)
    # nothing is needed for pages with text
    assert text_of(pdf_of(b"x"), "a.pdf", ocr=True) == "x"


def test_word_says_what_it_leaves_out():
    header = b"<w:hdr><w:p><w:r><w:t>Secret</w:t></w:r></w:p></w:hdr>"
    body = zip_part("pandoc-en.docx", "word/document.xml")
    formula = body.replace(b"</w:body>", b'<m:oMath xmlns:m="m"><m:r><m:t>x</m:t></m:r></m:oMath></w:body>')
    data = replaced("pandoc-en.docx", "word/document.xml", formula, {"word/header1.xml": header})
    assert read(data, "a.docx").notes == ("a.docx: formulas, headers are not read",)


def zip_part(name: str, part: str) -> bytes:
    with zipfile.ZipFile(DATA / "made" / name) as file:
        return file.read(part)


def test_footnotes():
    page = b'<html><p>harbour<a role="doc-noteref" href="#f"><sup>1</sup></a> m<sup>2</sup></p>'
    note = b'<li id="f">the old one<a role="doc-backlink">back</a></li>'
    assert text_of(page + note, "a.html") == "harbour[1] m2\n\n* the old one"


def test_slides():
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE

    deck = Presentation()
    first, _, third = (deck.slides.add_slide(deck.slide_layouts[6]) for _ in range(3))
    group = first.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 9, 9).text_frame.text = "in a group\vand below"
    first.shapes.add_table(1, 2, 0, 0, 9, 9).table.cell(0, 1).text = "a cell"
    first.notes_slide.notes_text_frame.text = "spoken"
    data = CategoryChartData()
    data.categories = ["a"]
    data.add_series("b", (1,))
    third.shapes.add_chart(XL_CHART_TYPE.PIE, 0, 0, 9, 9, data)
    file = io.BytesIO()
    deck.save(file)
    found = read(file.getvalue(), "a.pptx")
    assert found.text == "in a group\nand below\n|  | a cell |\nspoken"
    assert found.notes == ("a.pptx: 2 of 3 slides have no text (2, 3)", "a.pptx: charts and diagrams are not read (1)")


def test_workbooks_say_what_they_leave_out():
    sheet = zip_part("calc-stock.xlsx", "xl/worksheets/sheet1.xml")
    formula = b'<row r="9"><c r="A9"><f>1+1</f></c><c r="B9"><f>2*2</f><v>4</v></c></row></sheetData>'
    data = replaced("calc-stock.xlsx", "xl/worksheets/sheet1.xml", sheet.replace(b"</sheetData>", formula))
    found = read(data, "a.xlsx")
    assert found.notes == ("a.xlsx: 1 formula without a value that was saved: not read",)
    assert found.text.endswith("\n,4,,")
    book = zip_part("calc-stock.xlsx", "xl/workbook.xml")
    data = replaced("calc-stock.xlsx", "xl/workbook.xml", book.replace(b'state="visible"', b'state="hidden"'))
    assert read(data, "a.xlsx").notes == ("a.xlsx: hidden sheets are read, too (stock)",)


def test_rows_are_where_they_say():
    row = b'<row r="%d"><c r="A%d"><v>%d</v></c></row>'
    rows = b"".join(row % (i, i, i * 7) for i in (*range(3, 80), 200))
    sheet = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>%s</sheetData>'
    found = read(replaced("calc-stock.xlsx", "xl/worksheets/sheet1.xml", sheet % rows + b"</worksheet>"), "a.xlsx")
    assert [page.label for page in found.pages] == [
        "sheet stock, rows 3-52",
        "sheet stock, rows 53-79",
        "sheet stock, rows 200-200",
    ]
    assert found.text_of(found.pages[1]).split() == [str(i * 7) for i in range(53, 80)]


PACKAGE = (
    b'<package><manifest><item id="b" href="b.html"/><item id="c" href="c.html"/></manifest>'
    b'<spine><itemref idref="b"/><itemref idref="c"/></spine></package>'
)


def test_books():
    found = read(epub({"c.html": "<p>Größe</p>".encode()}, 2), "a.epub")
    assert [page.label for page in found.pages] == ["chapter 1", "chapter 2"]
    missing = archive({"META-INF/container.xml": CONTAINER.encode(), "a.opf": PACKAGE, "b.html": b"x"})
    assert read(missing, "a.epub").notes == ("a.epub: chapters that are missing in the file: c.html",)
    drm = '<encryption><CipherReference URI="c.html"/></encryption>'
    with pytest.raises(DapqError, match="DRM"):
        read(epub({"c.html": b"x", "META-INF/encryption.xml": drm.encode()}, 1), "a.epub")


def test_mails():
    mail = EmailMessage()
    mail["From"], mail["Subject"], mail["MIME-Version"] = "Zoë <z@example.org>", "Fähre\tum 8", "1.0"
    mail.set_content("Die Fähre fährt.", charset="iso-8859-15")
    mail.add_alternative("<p>Die <b>Fähre</b></p>", subtype="html")
    mail.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="a\tb.pdf")
    found = read(bytes(mail), "a.eml")
    assert found.text == "From: Zoë <z@example.org>\nSubject: Fähre um 8\n\nDie Fähre fährt."
    assert len(found.notes) == 1
    assert "attached files are not read (a" in found.notes[0]


def test_stdin(monkeypatch):
    for data, text in ((b"piped", "piped"), (pdf_of(FACT), FACT.decode())):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert read_document("-").text == text


def test_pipes(tmp_path):
    """As a shell gives with <(...); one that nobody writes to does not wait."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(DapqError, match="has no text"):
        read_document(str(path))
    with subprocess.Popen(["sh", "-c", f"exec 3<> {path}; sleep 0.3; printf late >&3"]) as writer:
        while not is_open(path):
            time.sleep(0.01)
        assert read_document(str(path)).text == "late"
        assert writer.wait() == 0


def is_open(path) -> bool:
    """Whether somebody has a pipe open to read or write."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no text"),
        (b" \n\t", "has no text"),
        (b"<html><body></body></html>", "has no text"),
        (b"\x7fELF\0\0\1", "is binary"),
        (b"caf\xe9", r"is not UTF-8 \(byte 3\)"),
        (b"%PDF-1.4\nbroken", "is a PDF that cannot be read: it is damaged"),
        (b"%PDF-1.4\n%%EOF", "is a PDF that cannot be read: it is damaged"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Office file"),
        (b"{\\rtf1 x}", "is RTF: save it as docx"),
        (b"\x89PNG\r\n", "is a picture"),
        (b"PK\3\4broken", "is a ZIP file that cannot be read"),
        (archive({"a.txt": b"x"}), "is a ZIP file: unpack it"),
        (archive({"mimetype": b"application/vnd.oasis.opendocument.text"}), "is an OpenDocument file: save it as docx"),
        (archive({"[Content_Types].xml": b"<x/>"}), "is an Office file of a kind that is not read"),
    ],
)
def test_refused(tmp_path, data, message):
    path = tmp_path / "document"
    path.write_bytes(data)
    with pytest.raises(DapqError, match=message) as caught:
        read_document(str(path))
    assert "\n" not in str(caught.value)


def test_names():
    assert read(b"<html>x", "a.pdf").notes == ("a.pdf: is read as HTML, whatever its name says",)
    assert read(b"x", "a\nb.txt").name == "a?b.txt"


def test_missing_library(monkeypatch, tmp_path):
    """One line names the extra; what needs none of it is read."""
    (tmp_path / "pypdfium2.py").write_text("raise ImportError('no', name='pypdfium2')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DapqError, match=r"a.pdf needs pypdfium2: run EXTRAS=documents ./scripts/setup.sh"):
        read(pdf_of(FACT), "a.pdf")
    assert text_of(b"<html>x", "a") == "x"


def test_a_module_beside_the_document_is_not_run(monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('no')")
    monkeypatch.chdir(tmp_path)
    assert text_of(pdf_of(FACT), "a.pdf") == FACT.decode()


def test_no_file(tmp_path):
    with pytest.raises(DapqError, match="No such file"):
        read_document(str(tmp_path / "missing"))
    with pytest.raises(DapqError, match="Is a directory"):
        read_document(str(tmp_path))
    with pytest.raises(DapqError, match="cannot read a\\?b: embedded null byte"):
        read_document("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(DapqError, match="Permission denied"):
        read_document(str(path))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("tesseract"), reason="needs Tesseract")
def test_a_huge_page_is_no_huge_picture():
    found = read(pdf_of(b"", b"x").replace(b"612 792", b"99999 99999"), "a.pdf", ocr=True)
    assert "read by OCR" in found.notes[0]
    assert "1 of 2 pages has no text (1)" in found.notes[1]


HEADS = [b"<!---->" * 9999, b"a: b\r\n" * 9999, b"a:\r\n \r\n" * 9999, b"<?xml?>" * 9999, b"%PDF-" * 9999]


@pytest.mark.parametrize("data", HEADS, ids=lambda data: data[:5].decode().strip())
def test_no_head_takes_for_ever(data):
    """A careless expression has 2 to the power of hundreds of ways to match each of these."""
    assert text_of(data, "a").replace("\n", "") == data.decode().replace("\r\n", "").strip()
