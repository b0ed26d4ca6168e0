"""Documents: what becomes text, and what is refused in one line."""

import io
import os
import zlib

import pytest

from dapq_edge.documents.text import read_document
from dapq_edge.errors import DapqError


def write_pdf(path, text: str = "Hello from page one"):
    """The smallest PDF with one line of text, compressed as real ones are."""
    content = zlib.compress(f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode())
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start, size = len(data), len(objects) + 1
    data += b"xref\n0 %d\n0000000000 65535 f \n" % size
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    data += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (size, start)
    path.write_bytes(data)
    return path


def test_text_and_markdown(tmp_path):
    for name, data in (("a.txt", "naïve"), ("b.md", "# Title\n\ntext"), ("c", "\ufeffwith a BOM")):
        (tmp_path / name).write_text(data, encoding="utf-8")
        assert read_document(str(tmp_path / name)) == data.lstrip("\ufeff")


def test_html(tmp_path):
    head = "<head><title>T</title><style>p{}</style><script>x()</script></head>"
    html = f"<!doctype html><html>{head}<body><p>One &amp; two</p></body>"
    for name in ("page.html", "page.txt"):
        (tmp_path / name).write_text(html)
        assert read_document(str(tmp_path / name)) == "T\nOne & two"


def test_pdf(tmp_path):
    assert read_document(str(write_pdf(tmp_path / "a.pdf"))).strip() == "Hello from page one"


def test_stdin(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    assert read_document("-") == "piped"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no text"),
        (b" \n\t", "has no text"),
        (b"<html><body></body></html>", "has no text"),
        (b"\x7fELF\0\0\1", "is binary"),
        (b"caf\xe9", r"is not UTF-8 \(byte 3\)"),
        (b"%PDF-1.4\nbroken", "cannot be read"),
        (b"%PDF-1.4\n%%EOF", "cannot be read"),
    ],
)
def test_refused(tmp_path, data, message):
    path = tmp_path / "document"
    path.write_bytes(data)
    with pytest.raises(DapqError, match=message) as caught:
        read_document(str(path))
    assert "\n" not in str(caught.value)


def test_pdf_without_text_and_truncated(tmp_path):
    path = write_pdf(tmp_path / "a.pdf", "")
    with pytest.raises(DapqError, match="OCR"):
        read_document(str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DapqError, match=r"cannot be read|no text"):
        read_document(str(path))


def test_no_file(tmp_path):
    with pytest.raises(DapqError, match="No such file"):
        read_document(str(tmp_path / "missing"))
    with pytest.raises(DapqError, match="Is a directory"):
        read_document(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(DapqError, match="Permission denied"):
        read_document(str(path))
