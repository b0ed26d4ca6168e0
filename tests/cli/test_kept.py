"""`dapq-edge kept`: the text, shaded by what is kept."""

from helpers.cli import assert_one_line, dapq_edge


def test_kept(model, doc, tmp_path):
    page, picture = tmp_path / "kept.html", tmp_path / "kept.png"
    options = "kept", "-m", model, "--doc", doc, "--kv-budget", 100, "What jumps?"
    result = dapq_edge(*options)
    assert result.returncode == 0
    assert "keeps 100 of" in result.stderr.decode()
    assert "fox" in result.stdout.decode()
    shaded = dapq_edge(*options, FORCE_COLOR="1", COLORTERM="truecolor", TERM="xterm-256color").stdout.decode()
    assert "\x1b[" in shaded
    assert "48;2;" in shaded
    result = dapq_edge(*options, "--html", page, "--plot", picture, "--layer", 1)
    assert result.returncode == 0
    assert result.stdout == b""
    assert "layer 1" in result.stderr.decode()
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert "% of the heads" in text
    assert "What jumps?" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert_one_line(dapq_edge(*options, "--layer", 99), 2, "--layer 99: choose one of 0, 1, 2")
    assert_one_line(dapq_edge(*options, "--html", "/proc/no/x"), 1, "cannot write")


def test_page_escapes_the_document(model, tmp_path):
    doc, page = tmp_path / "a.md", tmp_path / "a.page"
    doc.write_text("<script>alert(1)</script> & text. " * 5)
    result = dapq_edge("kept", "-m", model, "--doc", doc, "<b>Why?</b>", "--html", page)
    assert result.returncode == 0
    assert "<script" not in page.read_text()
    assert "<b>" not in page.read_text()
