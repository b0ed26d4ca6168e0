"""Answers from all of the documents on the page: items with their pages. The server's answers are stubs."""

import pytest
from helpers.page import chunk, needs_chromium

pytestmark = [needs_chromium, pytest.mark.slow]

EVIDENCE = {"coverage": "read all of 3 pages", "not_found": False, "partial": False, "note": "One window was cut."}


def item(text, *pages):
    return {"text": text, "pages": [{"file": "a.md", "page": page} for page in pages], "windows": [1]}


def test_items_have_their_pages(visit):
    """Those that are known at the end."""
    visit = visit(permissions=["clipboard-read", "clipboard-write"])
    visit.add(("a.md", "The Ada and the Bee sail."))
    visit.stub(
        chunk("The Ada", whole={"parts": [item("The Ada", "p. 1")]}),
        chunk("\nThe Bee", whole={"parts": [item("The Bee", "p. 2")]}),
        chunk(
            finish_reason="stop", whole={"parts": [item("The Ada", "p. 1", "p. 3"), item("The Bee")]}, evidence=EVIDENCE
        ),
    )
    assert visit.answer("List all ships.") == "The Ada\nThe Bee"
    assert visit.text(".coverage") == "Based on: read all of 3 pages"
    assert "One window was cut." in visit.text("article .notes")
    title = visit.page.get_by_text("2 parts of the documents")
    for _ in range(2):
        title.click()
        assert visit.text(".parts ul") == "The Ada (a.md, p. 1; a.md, p. 3)\nThe Bee"
        visit.load()
    visit.page.get_by_role("button", name="Copy").click()
    visit.page.get_by_text("Copied.").wait_for()
    copied = visit.page.evaluate("navigator.clipboard.readText()")
    assert copied == "The Ada\nThe Bee\nThe Ada (a.md, p. 1; a.md, p. 3)\nThe Bee"


def test_all_is_asked_where_a_part_was_read(visit):
    visit = visit()
    visit.add(("a.md", "The Ada and the Bee sail."))
    visit.stub(chunk("The Ada"), chunk(finish_reason="stop", evidence={**EVIDENCE, "partial": True}))
    visit.answer("List all ships.")
    all_of_it = visit.page.get_by_role("button", name="Ask all of it")
    bodies = visit.stub(
        chunk("The Bee", whole={"parts": [item("The Bee")]}),
        chunk(finish_reason="stop", whole={"parts": [item("The Bee")]}, evidence=EVIDENCE),
    )
    all_of_it.click()
    visit.wait()
    assert visit.text(".answer") == "The Bee"
    assert [(body["whole"], body["temperature"]) for body in bodies] == [("on", 0)]
    assert all_of_it.is_hidden()
    visit.page.get_by_role("button", name="Regenerate").click()
    visit.wait()
    assert [(body["whole"], body["temperature"]) for body in bodies[1:]] == [("on", 0.7)]


def test_nothing_was_found(visit):
    visit = visit()
    visit.add(("a.md", "The gulls cry."))
    visit.stub(chunk(finish_reason="stop", whole={"parts": []}, evidence={**EVIDENCE, "not_found": True}))
    visit.answer("List all ships.")
    assert "Nothing relevant was found in the documents" in visit.text(".notfound")
    assert "empty answer" not in visit.text("article .notes")
    assert visit.page.locator(".parts").is_hidden()
