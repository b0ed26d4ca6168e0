"""What goes wrong gets one line on the page, and the conversation stays."""

import json

import pytest
from helpers.page import LONG, chunk, needs_chromium
from helpers.serving import serving
from helpers.tiny import Spec

pytestmark = [needs_chromium, pytest.mark.slow]

# no file is so wrong that its parser is needed
DAMAGED = "%PDF-1.7\nnothing"


def failure(visit, question="Why?"):
    """The line of a question that fails; the turn before it stays."""
    visit.ask(question)
    visit.wait()
    line = visit.text("article .error")
    assert "\n" not in line
    assert visit.text("article h3") == question
    return line


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (
            429,
            json.dumps({"error": {"message": "3 requests already waiting: try again later"}}),
            "3 requests already waiting",
        ),
        (500, json.dumps({"error": {"message": "the server failed, see its log"}}), "see its log"),
        (502, "<html>Bad <b>gateway</b></html>", "the server answered 502"),
        (
            401,
            json.dumps({"error": {"message": "a wrong API key, or none"}}),
            "a wrong API key, or none (Settings: API key)",
        ),
    ],
)
def test_a_status(visit, status, body, line):
    visit = visit()
    visit.stub(chunk("Hello."), chunk(finish_reason="stop"))
    visit.answer("First?")
    visit.page.unroute("**/v1/chat/completions")
    visit.page.route("**/v1/chat/completions", lambda route: route.fulfill(status=status, body=body))
    assert line in failure(visit)
    visit.stub(chunk("Now it works."), chunk(finish_reason="stop"))
    visit.page.get_by_role("button", name="Ask again").click()
    visit.wait()
    assert visit.page.locator(".answer").all_inner_texts() == ["Hello.", "Now it works."]
    assert visit.page.locator("article .error:not(:empty)").count() == 0


def test_another_answer_that_fails_leaves_the_first_one(visit):
    visit = visit()
    visit.stub(chunk("Hello."), chunk(finish_reason="stop"))
    visit.answer("First?")
    visit.page.unroute("**/v1/chat/completions")
    visit.page.route("**/v1/chat/completions", lambda route: route.abort())
    visit.page.get_by_role("button", name="Regenerate").click()
    visit.page.locator("article .error", has_text="cannot be reached").wait_for()
    assert visit.text(".answer") == "Hello."


@pytest.mark.parametrize(
    ("chunks", "end", "line"),
    [
        ([chunk("Half")], "", "The connection broke"),
        ([chunk("Half"), {"error": {"message": "llama.cpp failed"}}], "data: [DONE]\n\n", "llama.cpp failed"),
        ([chunk("Half")], "data: {oops\n\n", "no answer"),
    ],
)
def test_a_stream_that_breaks_keeps_what_came(visit, chunks, end, line):
    visit = visit()
    visit.stub(*chunks, end=end)
    assert line in failure(visit)
    assert visit.text(".answer") == "Half"
    visit.load()
    assert line in visit.text("article .error")


def test_a_server_that_refuses(visit):
    """A wrong setting, what is too long, and a file that is none."""
    visit = visit()
    visit.page.get_by_role("heading", name="Settings").click()
    visit.page.get_by_label("Cells to keep").fill("-5")
    assert "kv_budget" in failure(visit)
    visit.page.get_by_label("Cells to keep").fill("")
    assert "exceed context window" in failure(visit, "long" + " long" * 20000)
    visit.add(("bad.pdf", DAMAGED), ("good.txt", "The ferry is named Marlow."))
    assert visit.text("#refused li").startswith("bad.pdf: ")
    assert "\n" not in visit.text("#refused li")
    assert visit.page.locator("#documents > li").count() == 1


def test_a_server_that_is_gone(visit, tiny_model):
    with serving(tiny_model(Spec(n_ctx=4096)), "--kv-budget", "200") as server:
        visit = visit(server.url)
        visit.stub(chunk("Hello."), chunk(finish_reason="stop"))
        visit.answer("First?")
        visit.page.unroute("**/v1/chat/completions")
    assert "cannot be reached" in failure(visit)
    visit.add(("a.txt", "text"))
    assert "cannot be reached" in visit.text("#refused li")
    assert "cannot be reached" in visit.text("#figures")
    assert visit.page.locator(".answer").first.inner_text() == "Hello."


def test_a_server_that_dies_while_it_answers(visit, tiny_model):
    with serving(tiny_model(Spec(n_ctx=4096)), "--kv-budget", "200") as server:
        visit = visit(server.url)
        visit.ask("Why?")
        visit.page.locator(".answer:not(:empty)").wait_for(timeout=LONG)
        server.process.kill()
        visit.wait()
    assert "The connection broke" in visit.text("article .error")
    assert visit.text(".answer")


def test_files_that_the_server_does_not_take(visit, tmp_path):
    """One that is too large, and a folder that was dropped."""
    visit = visit()
    large = tmp_path / "large.txt"
    large.write_bytes(b"x" * 2**26)
    visit.page.set_input_files("#files", large)
    visit.page.locator("#refused li").wait_for(timeout=LONG)
    assert "at most 33,554,432 bytes" in visit.text("#refused li")
    visit.page.evaluate(
        "() => { const file = new File([''], 'folder');"
        "file.slice = () => ({arrayBuffer: () => Promise.reject(new DOMException('', 'NotFoundError'))});"
        "const event = new Event('drop', {cancelable: true});"
        "event.dataTransfer = {types: ['Files'], files: [file]};"
        "document.dispatchEvent(event) }"
    )
    visit.page.locator("#refused li", has_text="folder: is a folder, or cannot be read").wait_for()


def test_documents_that_the_server_has_forgotten(visit):
    """It was started again: there can be no sources, and that is said."""
    visit = visit()
    visit.add(("a.txt", "The ferry is named Marlow."))
    visit.stub(chunk("Marlow."), chunk(finish_reason="stop"))
    visit.answer("What is its name?")
    assert "does not know these documents any more" in visit.text("article .notes")


def test_a_key_is_asked_for(visit, tiny_model):
    with serving(tiny_model(Spec(n_ctx=4096)), key="secret") as server:
        visit = visit(server.url)
        assert "API key" in failure(visit)
        visit.page.get_by_role("heading", name="Settings").click()
        visit.page.get_by_label("API key").fill("secret")
        visit.add(("a.txt", "The ferry is named Marlow."))
        assert visit.page.locator("#documents > li").count() == 1
        visit.load()
        assert visit.page.get_by_label("API key").input_value() == "secret"


def test_a_password_is_asked_for(visit):
    """The server says that a PDF has one: the file is sent again with it."""
    visit = visit()
    queries = []

    def document(route):
        queries.append(route.request.url.partition("?")[2])
        if "password=sesame" in queries[-1]:
            return route.fulfill(json={"text": "Open.", "n_tokens": 2, "pages": [], "notes": []})
        error = {"message": "is encrypted: give its password with `password`", "param": None}
        return route.fulfill(status=400, json={"error": error})

    visit.page.route("**/api/document?*", document)
    visit.add(("locked.pdf", "%PDF"))
    visit.page.get_by_label("Password of locked.pdf").fill("sesame")
    visit.page.keyboard.press("Enter")
    visit.page.get_by_label("locked.pdf", exact=True).wait_for()
    assert queries == ["name=locked.pdf", "name=locked.pdf&password=sesame"]
    assert visit.page.locator("#refused li").count() == 0


def test_what_was_not_read_is_shown(visit):
    visit = visit()
    visit.page.route(
        "**/api/document?*",
        lambda route: route.fulfill(json={"text": "x", "n_tokens": 1, "notes": ["2 of 4 pages have no text (2, 3)"]}),
    )
    visit.add(("scan.pdf", "x"))
    assert visit.text("#documents .notes") == "2 of 4 pages have no text (2, 3)"
    visit.load()
    assert visit.text("#documents .notes") == "2 of 4 pages have no text (2, 3)"


FULL = "IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError') }"


@pytest.mark.parametrize(("script", "line"), [(FULL, "is full"), ("delete window.indexedDB", "keeps nothing")])
def test_a_browser_that_keeps_nothing(visit, script, line):
    visit = visit()
    visit.page.add_init_script(script)
    visit.load()
    visit.stub(chunk("Hello."), chunk(finish_reason="stop"))
    assert visit.answer("Why?") == "Hello."
    visit.page.locator("#storage", has_text=line).wait_for()
