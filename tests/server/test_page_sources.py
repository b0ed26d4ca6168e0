"""Footnotes open the passage; what documents and models say stays text. The server's answers are stubs."""

import pytest
from helpers.page import chunk, citation, needs_chromium

pytestmark = [needs_chromium, pytest.mark.slow]

# an emoji is one character for the server, and two units for JavaScript
TEXT = "# Ferry 🚢\n\n" + "Gulls cry. " * 400 + "\n\n# Names\n\nThe ferry 🚢 is named Marlow.\n\n" + "Crates. " * 400
QUOTE = "The ferry 🚢 is named Marlow."
ANSWER = "It is 🚢 Marlow. The gulls cry."
EVIDENCE = {"coverage": "read 1 of 2 pages (2); 1 skimmed", "not_found": False, "note": "This is a part."}


def answered(visit, *citations, evidence=EVIDENCE, files=(("a.md", TEXT),)):
    visit.stub(chunk(ANSWER), chunk(finish_reason="stop", annotations=list(citations), evidence=evidence))
    visit.add(*files)
    visit.answer("What is its name?")
    return visit.page


def test_a_footnote_opens_the_passage(visit):
    visit = visit()
    name = citation("a.md", "Names", TEXT, QUOTE, ANSWER, "It is 🚢 Marlow.")
    gulls = citation("a.md", "Ferry 🚢", TEXT, "Gulls cry.", ANSWER, "The gulls cry.")
    page = answered(visit, gulls, name)
    assert visit.text(".answer").replace("\n", "") == "It is 🚢 Marlow.1 The gulls cry.2"
    assert visit.text(".sources li:first-child") == f"[1] a.md, Names: {QUOTE}"
    assert visit.text(".coverage") == "Based on: read 1 of 2 pages (2); 1 skimmed"
    assert "This is a part." in visit.text("article .notes")
    page.get_by_role("button", name="Source 1: a.md, Names").click()
    assert visit.text("#viewer mark") == QUOTE
    assert visit.text("#viewer-title") == "a.md, Names"
    assert page.evaluate(
        "() => { const of = one => document.querySelector(one).getBoundingClientRect();"
        "const [mark, box] = [of('#viewer mark'), of('#viewer-text')];"
        "return box.top <= mark.top && mark.bottom <= box.bottom }"
    )
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "footnote"
    page.locator(".sources button").nth(1).click()
    assert visit.text("#viewer mark") == "Gulls cry."
    page.get_by_role("button", name="Next").click()
    assert visit.text("#viewer-place") == "2 of 2"
    assert QUOTE in visit.text("#viewer-text")
    page.get_by_role("button", name="Close").click()
    visit.load()
    visit.page.get_by_role("button", name="Source 1: a.md, Names").click()
    assert visit.text("#viewer mark") == QUOTE


def test_a_source_is_copied_with_its_answer(visit):
    visit = visit(permissions=["clipboard-read", "clipboard-write"])
    page = answered(visit, citation("a.md", "Names", TEXT, QUOTE, ANSWER, "It is 🚢 Marlow."))
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied.").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f'It is 🚢 Marlow.[1] The gulls cry.\n[1] a.md, Names: "{QUOTE}"'


def test_nothing_was_found(visit):
    """It is said before the answer, as soon as the server says so."""
    visit = visit()
    evidence = {"coverage": "skimmed 2 pages", "not_found": True, "note": ""}
    page = visit.page
    visit.add(("a.md", TEXT))
    visit.stub({"choices": [], "evidence": evidence}, chunk("I guess"), chunk(finish_reason="stop"))
    visit.answer("What is the price?")
    assert "Nothing relevant was found in the documents" in visit.text(".notfound")
    boxes = [page.locator(one).bounding_box()["y"] for one in (".notfound", ".answer")]
    assert boxes == sorted(boxes)


def test_sources_that_are_wrong(visit):
    """A passage that is elsewhere is found by its quote; one that is nowhere, or of a removed document, is said."""
    visit = visit()
    moved = citation("a.md", "Names", TEXT, QUOTE, ANSWER, "It is 🚢 Marlow.")
    moved["file_citation"] |= {"document_start": 5, "document_end": 9}
    invented = {"type": "file_citation", "file_citation": {"filename": "a.md", "quote": "The ferry sank."}}
    page = answered(visit, moved, invented, {"type": "other"}, None, evidence=None)
    page.get_by_role("button", name="Source 1").click()
    assert visit.text("#viewer mark") == QUOTE
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Source 2").click()
    assert visit.text("#viewer-note") == "The passage is not in this text."
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Remove a.md").click()
    page.get_by_role("button", name="Source 1").click()
    assert "was removed" in visit.text("article .error")


def test_a_text_that_was_pasted_is_its_own_source(visit):
    visit = visit()
    one = citation("message 1", "", TEXT, QUOTE, ANSWER, "It is 🚢 Marlow.")
    visit.stub(chunk(ANSWER), chunk(finish_reason="stop", annotations=[one], evidence=EVIDENCE))
    visit.answer(f"What is its name?\n\n{TEXT}")
    visit.page.locator(".footnote").click()
    assert visit.text("#viewer mark") == QUOTE
    assert visit.text("#viewer-title").startswith("Your message")


HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def test_what_is_hostile_stays_text(visit):
    """Names, texts, notes, answers, quotes and errors with HTML in them."""
    visit = visit()
    page = visit.page
    one = citation(f"{HOSTILE}.md", HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    visit.stub(
        chunk(HOSTILE),
        chunk(
            finish_reason="stop",
            annotations=[one],
            warnings=[HOSTILE],
            evidence={"coverage": HOSTILE, "note": HOSTILE, "not_found": True},
        ),
    )
    found = {"text": HOSTILE, "n_tokens": 3, "notes": [HOSTILE], "pages": [{"label": HOSTILE, "start": 0, "stop": 9}]}
    page.route("**/api/document?*", lambda route: route.fulfill(json=found))
    visit.add((f"{HOSTILE}.md", "x"))
    assert HOSTILE in visit.answer(HOSTILE)
    page.locator(".footnote").click()
    assert visit.text("#viewer mark") == HOSTILE
    page.keyboard.press("Escape")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=500, json={"error": {"message": HOSTILE}}))
    visit.answer("Again?")
    assert visit.text("article .error") == HOSTILE
    for _ in range(2):
        assert page.locator("main img, aside img, dialog img, body script").count() == 0
        assert page.title() == "dapq-edge"
        visit.load()


def test_a_long_text_without_pages_is_shown_in_parts(visit):
    visit = visit()
    text = "Gulls cry. " * 10000 + QUOTE + " Gulls cry." * 10000
    page = answered(visit, citation("a.txt", "", text, QUOTE, ANSWER, "It is 🚢 Marlow."), files=[("a.txt", text)])
    page.locator(".footnote").click()
    assert visit.text("#viewer mark") == QUOTE
    assert len(visit.text("#viewer-text")) < 25000
