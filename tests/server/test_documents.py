"""Documents over HTTP: their text, pages and notes, and one line for what is damaged or hostile."""

import json

import pytest
from helpers.documents import DATA
from helpers.hostile import damaged, empty
from helpers.pdfs import pdf_of
from helpers.serving import assert_error, serving
from helpers.tiny import Spec


def post(server, data: bytes, name: str, **options):
    return server.client.post("/api/document", params={"name": name, **options}, content=data, timeout=60)


def test_text_pages_and_notes(server):
    found = post(server, pdf_of(b"one", b"", b"three"), "a.pdf").json()
    assert found["text"] == "one\n\nthree"
    assert found["pages"] == [
        {"label": "p. 1", "start": 0, "stop": 3},
        {"label": "p. 2", "start": 4, "stop": 4},
        {"label": "p. 3", "start": 5, "stop": 10},
    ]
    assert found["notes"] == ["a.pdf: 1 of 3 pages has no text (2)"]
    assert found["n_tokens"] > 1


def test_charset_of_the_header(server):
    headers = {"content-type": 'text/html; charset="windows-1252"'}
    data = "<html><p>Größe 5 €".encode("cp1252")
    found = server.client.post("/api/document?name=a.html", content=data, headers=headers).json()
    assert found["text"] == "Größe 5 €"
    assert found["notes"] == []


@pytest.mark.parametrize("name", ["pandoc-en.docx", "pandoc-en.pptx", "calc-stock.xlsx", "pandoc-en.epub"])
def test_kinds(server, name):
    assert len(post(server, (DATA / "made" / name).read_bytes(), name).json()["text"].split()) > 10


def test_password(server):
    data = (DATA / "made/qpdf-password-en.pdf").read_bytes()
    assert_error(post(server, data, "a.pdf"), 400, "a.pdf is encrypted: give its password with password")
    assert_error(post(server, data, "a.pdf", password="x"), 400, "the one of password is wrong")
    assert "48213" in post(server, data, "a.pdf", password="reader").json()["text"]


def test_damaged_and_empty(server):
    n_refused = 0
    for name, data in [*damaged(), *empty()]:
        response = post(server, data, name)
        if response.status_code == 200:
            assert response.json()["text"]
        else:
            assert_error(response, 400, name)
            n_refused += 1
    assert n_refused > 20
    assert server.client.get("/health").status_code == 200


def test_hostile(server):
    assert_error(post(server, b"<div>" * 200_000 + b"x", "a.html"), 400, "is nested too deeply")
    assert_error(post(server, b"<" * 20_000_000, "a.html"), 400, "needs more than 470 MiB")
    assert_error(post(server, bytes(40 * 2**20), "a.pdf"), 413)


@pytest.mark.parametrize("is_stream", [False, True])
def test_answers_say_what_they_are_based_on(server, is_stream):
    text = "# One\n\n" + "The first thing is red. " * 30 + "\n\n# Two\n\n" + "The second thing is blue. " * 30
    found = post(server, text.encode(), "things.md").json()
    assert [page["label"] for page in found["pages"]] == ["One", "Two"]
    response = server.chat(f"{found['text']}\n\nWhich thing is red?", stream=is_stream, max_tokens=8)
    if is_stream:
        chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        first, annotations = chunks[0], chunks[-1]["choices"][0]["delta"]["annotations"]
        assert not any("evidence" in chunk for chunk in chunks[1:])
    else:
        first = response.json()
        annotations = first["choices"][0]["message"]["annotations"]
    assert first["evidence"]["coverage"].startswith("read ")
    assert isinstance(first["evidence"]["not_found"], bool)
    for annotation in annotations:
        cited = annotation["file_citation"]
        assert annotation["type"] == "file_citation"
        assert cited["filename"] == "things.md"
        assert " ".join(found["text"][cited["document_start"] : cited["document_end"]].split()) == cited["quote"]
        assert cited["page"] in ("One", "Two")


def test_answers_about_a_text_that_was_pasted_are_cited_too(server):
    text = "\n\n".join(f"The clerk counted crate {i}, and the gulls." for i in range(60))
    answer = server.chat(f"{text}\n\nWho counted?", max_tokens=8).json()
    assert answer["evidence"]["coverage"].startswith("read ")
    for annotation in answer["choices"][0]["message"]["annotations"]:
        cited = annotation["file_citation"]
        assert (cited["filename"], cited["page"]) == ("message 1", "")
        assert " ".join(text[cited["document_start"] : cited["document_end"]].split()) == cited["quote"]


def test_a_part_says_that_it_is_one(server):
    text = post(server, ("The first thing is red. " * 80).encode(), "red.txt").json()["text"]
    first = {"role": "user", "content": f"{text}\n\nSummarize it."}
    later = [{"role": "assistant", "content": "Red."}, {"role": "user", "content": "Which thing is red?"}]
    for messages, is_partial in (([first], True), ([first, *later], False)):
        evidence = server.chat("", messages=messages, max_tokens=2).json()["evidence"]
        assert evidence["partial"] is is_partial
        assert ("answered from a part of it" in evidence["note"]) is is_partial


def test_answers_about_no_text_say_nothing(server):
    answer = server.chat("Which thing is red?").json()
    assert "evidence" not in answer
    assert "annotations" not in answer["choices"][0]["message"]


def test_documents_are_known_after_a_restart(tiny_model, tmp_path):
    """With their pages, by what the store keeps; and not without one."""
    text = "# One\n\n" + "The first thing is red. " * 30 + "\n\n# Two\n\n" + "The second thing is blue. " * 30
    model, store = tiny_model(Spec(n_ctx=4096)), ["--store", str(tmp_path / "store")]

    def coverage(*options, is_sent=False):
        with serving(model, "--kv-budget", "100", "-c", "4096", *options) as server:
            if is_sent:
                assert post(server, text.encode(), "things.md").status_code == 200
            evidence = server.chat(f"{text.strip()}\n\nWhich thing is red?", max_tokens=2).json().get("evidence")
            server.stop()
        return evidence["coverage"] if evidence else None

    assert " of 2 pages" in coverage(*store, is_sent=True)
    assert " of 2 pages" in coverage(*store)
    assert coverage("--no-store") is None
