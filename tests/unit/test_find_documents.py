"""Files of paths, folders and patterns, and documents as one."""

import os

import pytest
from helpers.pdfs import pdf_of

from dapq_edge.documents.document import join
from dapq_edge.documents.find import MAX_FILES, find, read_documents
from dapq_edge.errors import DapqError, UsageError


@pytest.fixture
def folder(tmp_path):
    for name, data in {
        "b.txt": b"text b",
        "a.md": b"# A\n\ntext a",
        "deep/c.pdf": pdf_of(b"text c"),
        "deep/er/d.html": b"<html>text d",
        "deep/u16.txt": "text u".encode("utf-16"),
        ".hidden.txt": b"no",
        ".git/config": b"no",
        "deep/.x": b"no",
        "picture.png": b"\x89PNG\r\n\x1a\n\0",
        "program": b"\x7fELF\0\0",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def names(documents) -> list[str]:
    return [document.name.rpartition("/")[-1] for document in documents]


def test_folder(folder):
    documents, notes = read_documents([str(folder)])
    assert names(documents) == ["a.md", "b.txt", "c.pdf", "u16.txt", "d.html"]
    assert notes == [f"{folder}: 5 files; skipped: 3 hidden, 3 binary"]


def test_patterns(folder):
    documents, notes = read_documents([f"{folder}/*"])
    assert names(documents) == ["a.md", "b.txt"]
    assert notes == [f"{folder}/*: 2 files; skipped: 1 folder, 3 binary"]
    assert names(read_documents([f"{folder}/**/*.pdf"])[0]) == ["c.pdf"]
    with pytest.raises(DapqError, match="no file matches"):
        read_documents([f"{folder}/*.no"])
    with pytest.raises(DapqError, match="has no file that can be read"):
        read_documents([f"{folder}/*.png"])
    # a file may be called like a pattern
    (folder / "x[1].txt").write_text("brackets")
    assert read_documents([f"{folder}/x[1].txt"])[0][0].text == "brackets"


def test_a_damaged_file_of_a_folder_is_said(folder):
    (folder / "e.pdf").write_bytes(b"%PDF-1.7 no")
    documents, notes = read_documents([str(folder)])
    assert len(documents) == 5
    assert notes[-1] == f"skipped: {folder}/e.pdf is a PDF that cannot be read: it is damaged"
    # one that was named is an error
    with pytest.raises(DapqError, match="cannot be read"):
        read_documents([f"{folder}/e.pdf"])
    with pytest.raises(DapqError, match="none of 1 file can be read"):
        read_documents([f"{folder}/*.pdf"])


def test_documents_of_a_folder_that_are_not_read_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.doc").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0")
    (tmp_path / "c.rtf").write_bytes(b"{\\rtf1 x}")
    (tmp_path / "d.zip").write_bytes(b"PK\3\4\0")
    (tmp_path / "e.png").write_bytes(b"\x89PNG")
    documents, notes = read_documents([str(tmp_path)])
    assert names(documents) == ["a.txt"]
    assert notes[0] == f"{tmp_path}: 4 files; skipped: 1 binary"
    assert [note.split()[1].rpartition("/")[-1] for note in notes[1:]] == ["b.doc", "c.rtf", "d.zip"]


def test_too_much_together(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("a" * 6_000_000)
    with pytest.raises(DapqError, match="more than 10 million characters together"):
        read_documents([str(tmp_path)])


def test_twice(folder):
    path = str(folder / "b.txt")
    assert find([path, path]).paths == [path]
    assert find([path, path]).notes == [f"{path} was given twice, and is read once"]
    found = find([path, str(folder)])
    assert len(found.paths) == 5


@pytest.mark.parametrize("url", ["https://example.org/a.pdf", "ftp://a", "FILE:///a"])
def test_urls(url):
    with pytest.raises(UsageError, match="is a URL, and nothing is fetched"):
        read_documents([url])


def test_too_many(tmp_path):
    for i in range(MAX_FILES + 1):
        (tmp_path / f"{i}.txt").touch()
    with pytest.raises(DapqError, match="has more than 1,000 files"):
        read_documents([str(tmp_path)])
    with pytest.raises(DapqError, match="matches more than 1,000 files"):
        read_documents([f"{tmp_path}/*"])


def test_loops_of_links_end(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "none.txt").symlink_to(tmp_path / "nothing")
    documents, notes = read_documents([str(tmp_path)])
    assert names(documents) == ["a.txt"]
    assert "none.txt: No such file" in notes[-1]


def test_documents_as_one(folder):
    documents, _ = read_documents([str(folder / "a.md"), str(folder / "deep/c.pdf")])
    both = join(documents)
    assert both.text == f"{documents[0].name}\n# A\n\ntext a\n\n{documents[1].name}\ntext c"
    assert [(page.file, page.label, both.text_of(page)) for page in both.pages] == [
        (documents[0].name, "A", "# A\n\ntext a"),
        (documents[1].name, "p. 1", "text c"),
    ]
    # one needs no name
    assert join(documents[:1]) is documents[0]
