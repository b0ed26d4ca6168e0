"""Documents on the command line: several, folders, what is said, and what is refused."""

import json

import pytest
from helpers.cli import ask, assert_one_line, assert_usage, dapq_edge
from helpers.documents import DATA
from helpers.pdfs import pdf_of

SECRET = DATA / "made/qpdf-password-en.pdf"


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.pdf"
    path.write_bytes(pdf_of(b"one fox", b"", b"", b"four foxes"))
    return path


def n_tokens(result) -> int:
    assert result.returncode == 0, result.stderr.decode()
    return json.loads(result.stdout)["prompt_tokens"]


def test_both_documents_are_read(model, doc, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("The lazy dog sleeps. " * 10)
    one, both = n_tokens(ask(model, doc)), n_tokens(ask(model, doc, "--doc", other))
    assert both > one + 40
    assert n_tokens(ask(model, doc.parent)) == both
    assert n_tokens(ask(model, f"{doc.parent}/*.txt")) == both
    assert_one_line(ask(model, doc, "--doc", tmp_path / "no"), 1, "cannot read")


def test_what_was_not_read_is_said(model, scan):
    result = ask(model, scan)
    line = f"{scan}: 2 of 4 pages have no text (2, 3)"
    assert result.stderr.decode().splitlines()[0] == f"dapq-edge: {line}"
    assert json.loads(result.stdout)["notes"] == [line]
    for command in (["kept", "-m", model, "--doc", scan, "What?"], ["chat", "-m", model, "--doc", scan]):
        assert line in dapq_edge(*command).stderr.decode()
    assert line in dapq_edge("chat", "-m", model, stdin=f"/doc {scan}\n".encode()).stderr.decode()


def test_read(model, scan, tmp_path):
    result = dapq_edge("read", "-m", model, scan.parent, "--store", tmp_path / ".store")
    assert result.returncode == 0, result.stderr.decode()
    assert "2 of 4 pages have no text (2, 3)" in result.stderr.decode()
    assert result.stdout.decode().startswith(f"{scan}: ")


def test_chat_adds_a_folder(model, doc, scan):
    result = dapq_edge("chat", "-m", model, stdin=f"/doc {doc.parent}\n".encode())
    assert result.returncode == 0, result.stderr.decode()
    assert result.stderr.decode().count("read while you type") == len(list(doc.parent.glob("*.*")))


def test_password(model, tmp_path):
    assert_one_line(ask(model, SECRET), 1, f"{SECRET} is encrypted: give its password with --password")
    assert_one_line(ask(model, SECRET, "--password", "x"), 1, "the one of --password is wrong")
    assert n_tokens(ask(model, SECRET, "--password", "reader")) > 100
    for name in (SECRET.name, "a.txt"):
        (tmp_path / name).write_bytes(SECRET.read_bytes() if name == SECRET.name else b"x")
    result = ask(model, tmp_path)
    line = f"skipped: {tmp_path / SECRET.name} is encrypted: give its password with --password"
    assert json.loads(result.stdout)["notes"] == [line]
    assert line in result.stderr.decode()


def test_refused(model, tmp_path):
    for name, data, line in (
        ("a.pdf", b"%PDF-1.7 x", "is a PDF that cannot be read"),
        ("a.pdf", pdf_of(b""), "its pages are pictures, which --ocr reads"),
        ("a.docx", b"PK\3\4", "is a ZIP file that cannot be read"),
        ("a.txt", b"\0\1\2", "is binary"),
    ):
        (tmp_path / name).write_bytes(data)
        assert_one_line(ask(model, tmp_path / name), 1, line)
    assert_one_line(ask(model, "https://example.org/a.pdf"), 2, "is a URL, and nothing is fetched: give a file")
    assert_usage(dapq_edge("ask", "-m", model, "What?"), "--doc")
