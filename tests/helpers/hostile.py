"""Damaged and hostile files, made from good ones and from nothing; and a process that reads them all.

python -m helpers.hostile write FOLDER
python -m helpers.hostile read FOLDER     reads each as the command line does, and prints a line of JSON for it
"""

import io
import json
import random
import resource
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from dapq_edge.documents.find import read_documents
from dapq_edge.errors import DapqError

from .pdfs import CATALOG, PAGE, TREE, pdf, stream

MADE = Path(__file__).parents[1] / "data/documents/made"
GOOD = (
    "writer-en.pdf",
    "chromium-de.pdf",
    "pandoc-en.docx",
    "pandoc-en.pptx",
    "calc-stock.xlsx",
    "pandoc-en.epub",
    "pandoc-en.html",
    "mime-construct-html-en.eml",
)
LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
BOMB = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "{"lol" * 10}">{LAUGHS}]>'
BLOWUP = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "{"a" * 100_000}">]>'
SECRET = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY s SYSTEM "file:///etc/passwd">]>'
W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="a.opf"/></rootfiles></container>'
)


def write(folder: Path) -> None:
    """Write the files."""
    for makers in (damaged, empty, texts, pages, pdfs, packed, mails):
        for name, data in makers():
            (folder / name).write_bytes(data)
    for name in ("huge.txt", "huge.pdf", "huge.docx", "huge.html"):
        with (folder / name).open("wb") as file:
            file.write(b"%PDF-1.7" if name.endswith("pdf") else b"a")
            file.truncate(300 * 10**6)


def damaged() -> Iterator[tuple[str, bytes]]:
    """Files that end early, or have wrong bytes."""
    rng = random.Random(7)
    for name in GOOD:
        data = (MADE / name).read_bytes()
        for share in (0.1, 0.5, 0.9):
            yield f"cut-{share}-{name}", data[: int(len(data) * share)]
        for n in (3, 200):
            bad = bytearray(data)
            for _ in range(n):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            yield f"flipped-{n}-{name}", bytes(bad)


def empty() -> Iterator[tuple[str, bytes]]:
    for kind in ("txt", "md", "pdf", "docx", "pptx", "xlsx", "epub", "html", "eml"):
        yield f"empty.{kind}", b""


def texts() -> Iterator[tuple[str, bytes]]:
    yield "mark.txt", b"\xff\xfe"
    yield "odd.txt", b"\xff\xfea\0b"
    yield "random.txt", random.Random(1).randbytes(100_000)
    yield "half.txt", b"a\xed\xa0\x80b" * 1000
    yield "line.txt", b"a" * 39_000_000
    yield "emoji.txt", "\U0001f600".encode() * 9_900_000
    yield "headings.md", b"# a\n" * 2_000_000
    yield "hashes.md", b"# " + b"# " * 1_000_000 + b"x"
    yield "fences.md", b"```" + b"`" * 5_000_000 + b"\n# a\n" * 40_000
    yield "comments.txt", b"<!---->" * 1_000_000 + b"x"
    yield "headers.txt", b"a: b\r\n" * 1_000_000
    yield "latin.txt", b"caf\xe9 " * 3_000_000


def pages() -> Iterator[tuple[str, bytes]]:
    """HTML."""
    yield "deep.html", b"<div>" * 200_000 + b"x"
    yield "deep-inline.html", b"<html>" + b"<b><i>" * 100_000 + b"x"
    yield "deep-tables.html", b"<table><tr><td>" * 20_000 + b"x"
    yield "lists.html", b"<ul><li>" * 20_000 + b"x"
    yield "less.html", b"<" * 20_000_000
    yield "attribute.html", b'<p a="' + b"x" * 30_000_000 + b'">y</p>'
    yield "attributes.html", b"<p " + b"".join(b"a%d=1 " % i for i in range(500_000)) + b">y</p>"
    yield "spans.html", b"<table>" + b"<tr>" + b'<td colspan="999999999">x</td><td>y</td>' * 20_000 + b"</table>"
    yield "entities.html", f"{BOMB}<html><body>&l11;</body></html>".encode()
    yield "hidden.html", b"<p style='display:none'>x</p>" * 300_000
    yield "comment.html", b"<html><!--" + b"-" * 20_000_000
    yield "charset.html", b"<meta charset=rot13><p>caf\xe9 \xff\xfe"


def pdfs() -> Iterator[tuple[str, bytes]]:
    text = b"BT /F1 12 Tf 72 700 Td (x) Tj ET "
    yield "kids-loop.pdf", pdf(CATALOG, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 9 >>")
    yield "count.pdf", pdf(CATALOG, b"<< /Type /Pages /Kids [3 0 R] /Count 2000000000 >>", PAGE, stream(text))
    kids = b"3 0 R " * 50_000
    yield "endless.pdf", pdf(CATALOG, b"<< /Type /Pages /Kids [%s] /Count 50000 >>" % kids, PAGE, stream(text))
    yield "nested.pdf", pdf(CATALOG, TREE, b"[" * 500_000 + b"]" * 500_000)
    flate = zlib.compress(b" " * 10**9, 9)
    yield "flate.pdf", pdf(CATALOG, TREE, PAGE, stream(flate, b"/Filter /FlateDecode"))
    twice = zlib.compress(flate, 9)
    yield "flates.pdf", pdf(CATALOG, TREE, PAGE, stream(twice, b"/Filter [/FlateDecode /FlateDecode]"))
    shows = zlib.compress(text * 1_500_000)
    yield "shows.pdf", pdf(CATALOG, TREE, PAGE, stream(shows, b"/Filter /FlateDecode"))
    yield "states.pdf", pdf(CATALOG, TREE, PAGE, stream(zlib.compress(b"q " * 10**7), b"/Filter /FlateDecode"))
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 5 0 R >> >>"
    calls = PAGE.replace(b"/Font", b"/XObject << /X 5 0 R >> /Font")
    yield "form-loop.pdf", pdf(CATALOG, TREE, calls, stream(b"/X Do"), stream(b"/X Do /X Do", more=form))
    huge = PAGE.replace(b"612 792", b"1000000000 1000000000")
    yield "dimensions.pdf", pdf(CATALOG, TREE, huge, stream(text))
    fields = CATALOG[:-2] + b"/AcroForm << /Fields [5 0 R] >> >>"
    widget = b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /Parent 5 0 R /Kids [5 0 R] /Rect [0 0 9 9] >>"
    yield "field-loop.pdf", pdf(fields, TREE, PAGE[:-2] + b"/Annots [5 0 R] >>", stream(text), widget)
    yield "xref-loop.pdf", pdf(CATALOG, TREE, PAGE, stream(text), trailer=b"/Prev 9 ") + b"\nstartxref\n9\n%%EOF"
    yield "length.pdf", pdf(CATALOG, TREE, PAGE, stream(text).replace(b"/Length 34", b"/Length 4 0 R"))
    picture = b"/Type /XObject /Subtype /Image /Width 100000 /Height 100000 /ColorSpace /DeviceRGB /BitsPerComponent 8"
    yield "picture.pdf", pdf(CATALOG, TREE, calls, stream(b"/X Do"), stream(flate, b"/Filter /FlateDecode", picture))


def packed() -> Iterator[tuple[str, bytes]]:
    """ZIP files of Office and EPUB."""
    for name, part in (("pandoc-en.docx", "word/document.xml"), ("pandoc-en.pptx", "ppt/slides/slide1.xml")):
        yield f"bomb-{name}", replaced(name, part, b"<a>" + b" " * 10**9)
        yield f"near-bomb-{name}", replaced(name, part, b"<a>" + b"<b/>" * 90_000_000)
        for what, head, body in (
            ("laughs", BOMB, "&l11;"),
            ("blowup", BLOWUP, "&a;" * 50_000),
            ("secret", SECRET, "&s;"),
        ):
            yield (
                f"{what}-{name}",
                replaced(name, part, f'{head}<w:document xmlns:w="{W}">{body}</w:document>'.encode()),
            )
        yield f"deep-{name}", replaced(name, part, b"<a>" * 1_000_000)
    sheet = "xl/worksheets/sheet1.xml"
    yield "bomb.xlsx", replaced("calc-stock.xlsx", sheet, b"<a>" + b" " * 10**9)
    yield "laughs.xlsx", replaced("calc-stock.xlsx", sheet, f"{BOMB}<worksheet>&l11;</worksheet>".encode())
    cells = '<c r="A1"><v>1</v></c>', '<c r="XFD1048576"><v>2</v></c>'
    far = f'<worksheet><sheetData><row r="1">{cells[0]}</row><row r="1048576">{cells[1]}</row></sheetData></worksheet>'
    yield "far.xlsx", replaced("calc-stock.xlsx", sheet, far.encode())
    rows = b"".join(b'<row r="%d"><c r="A%d"><v>%d</v></c></row>' % (i, i, i) for i in range(1, 1_000_000))
    yield "rows.xlsx", replaced("calc-stock.xlsx", sheet, b"<worksheet><sheetData>%s</sheetData></worksheet>" % rows)
    yield "members.docx", archive({f"a{i}": b"" for i in range(60_000)})
    yield "nested.docx", archive({"a.zip": archive({"b.zip": archive({"c": bytes(10**8)})})})
    yield "container.epub", archive({"META-INF/container.xml": f"{BOMB}<a>&l11;</a>".encode()})
    for name, chapter in (("laughs", f"{BOMB}<html>&l11;</html>"), ("secret", f"{SECRET}<html>&s;</html>")):
        yield f"{name}.epub", epub({"c.html": chapter.encode()}, 1)
    yield "bomb.epub", epub({"c.html": b"<p>" + b" " * 350_000_000}, 1)
    yield "spine.epub", epub({"c.html": b"<p>" + b"x" * 1_000_000}, 5_000)
    yield "deep.epub", epub({"c.html": b"<div>" * 300_000}, 1)


def epub(chapters: dict[str, bytes], n_times: int) -> bytes:
    refs = '<itemref idref="c"/>' * n_times
    package = f'<package><manifest><item id="c" href="c.html"/></manifest><spine>{refs}</spine></package>'
    return archive({"META-INF/container.xml": CONTAINER.encode(), "a.opf": package.encode(), **chapters})


def archive(members: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return data.getvalue()


def replaced(name: str, part: str, content: bytes, more: dict[str, bytes] | None = None) -> bytes:
    """A good file with another part, and more."""
    with zipfile.ZipFile(MADE / name) as file:
        members = {member: file.read(member) for member in file.namelist()}
    assert part in members
    return archive(members | {part: content} | (more or {}))


def mails() -> Iterator[tuple[str, bytes]]:
    start = b"From: a@b.c\nMIME-Version: 1.0\n"
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(3_000))
    yield "parts.eml", start + nested + b"\nx"
    yield "mails.eml", start + b"Content-Type: message/rfc822\n\n" * 50_000 + b"x"
    yield "headers.eml", start + b"X-A: b\n" * 1_000_000 + b"\nx"
    yield "header.eml", start + b"Subject: " + b"=?utf-8?q?a?= " * 500_000 + b"\n\nx"
    yield "addresses.eml", start + b"To: " + b"(" * 100_000 + b"\n\nx"
    yield "charset.eml", start + b"Content-Type: text/plain; charset=zlib\n\ncaf\xe9"
    yield "names.eml", start + b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\n\nx\n" * 100_000


def outcome(path: Path) -> dict[str, object]:
    start = time.monotonic()
    try:
        documents, notes = read_documents([str(path)])
        result = {"text": documents[0].text[:2000], "notes": notes, "error": None}
    except DapqError as error:
        result = {"text": "", "notes": [], "error": str(error)}
    return {"name": path.name, "seconds": round(time.monotonic() - start, 2)} | result


def read(folder: Path) -> None:
    """Read the files; those of no child come last, as a child begins with the memory of its parent."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.suffix in (".txt", ".md"), path.name)):
        result = outcome(path)
        # its own ru_maxrss counts the process that began it
        status = Path("/proc/self/status").read_text()
        own = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        peaks = {"own_mib": int(own) >> 10, "child_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10}
        print(json.dumps(result | peaks), flush=True)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
