"""The page for everyone: by keyboard, on a phone, in the dark, and to a screen reader."""

import pytest
from helpers.page import chunk, citation, needs_chromium

pytestmark = [needs_chromium, pytest.mark.slow]

TEXT = "Gulls cry.\n\nThe ferry is named Marlow.\n\n" + "x" * 300
ANSWER = "It is Marlow.\n\n```\n" + "y" * 300 + "\n```\nSo it is."
NOTE = "2 of 4 pages have no text (2, 3)"
NAME = "a very long name of a document " * 5 + "without_any_place_to_break_it" * 4 + ".txt"

# the least contrast of the text to the shade behind it, as WCAG 2 has it
CONTRAST = """spans => {
  const parts = color => color.match(/[\\d.]+/g).map(Number);
  const light = rgb => [.2126, .7152, .0722].reduce((sum, share, i) => {
    const x = rgb[i] / 255;
    return sum + share * (x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
  }, 0);
  const back = parts(getComputedStyle(spans[0].closest("section")).backgroundColor);
  return Math.min(...spans.map(span => {
    const style = getComputedStyle(span);
    const [r, g, b, alpha = 1] = parts(style.backgroundColor);
    const behind = light([r, g, b].map((x, i) => x * alpha + back[i] * (1 - alpha)));
    const [low, high] = [light(parts(style.color)), behind].sort((x, y) => x - y);
    return (high + .05) / (low + .05);
  }));
}"""


def filled(visit):
    """A page with all that it can show: documents, notes, a file that was refused, answers, a failure, shades."""
    page = visit.page
    found = {"text": TEXT, "n_tokens": 3000, "notes": [NOTE], "pages": [{"label": "p. 1", "start": 0, "stop": 300}]}
    page.route("**/api/document?*", lambda route: route.fulfill(json=found))
    if page.locator("#menu").is_visible() and not page.locator("#side").is_visible():
        page.locator("#menu").click()
    visit.add((NAME, "x"))
    page.route(
        "**/api/document?*",
        lambda route: route.fulfill(
            status=400, json={"error": {"message": "is encrypted: give its password with `password`"}}
        ),
    )
    visit.add(("locked.pdf", "x"))
    page.route("**/api/kept", lambda route: route.fulfill(json={"pieces": [["abc ", i / 8] for i in range(9)]}))
    page.get_by_label("Show what is kept").check()
    one = citation(NAME, "p. 1", TEXT, "The ferry is named Marlow.", ANSWER, "It is Marlow.")
    evidence = {"coverage": "read 1 of 1 pages", "not_found": True, "note": ""}
    visit.stub(chunk(ANSWER), chunk(finish_reason="stop", annotations=[one], evidence=evidence))
    visit.answer("What is " + "its_name" * 60 + "?")
    visit.stub(chunk("Half"), end="")
    visit.answer("And its captain?")
    return page


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_is_wider_than_the_screen(visit, width, tmp_path):
    visit = visit(viewport={"width": width, "height": 740})
    page = filled(visit)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.locator(".footnote").click()
    assert page.locator("#viewer").bounding_box()["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "viewer.png")


def test_a_phone_shows_the_side_when_it_is_wanted(visit):
    visit = visit(viewport={"width": 360, "height": 740})
    page = visit.page
    # nothing can be asked about yet
    assert page.locator("#side").is_visible()
    page.get_by_role("button", name="Documents and more").click()
    assert not page.locator("#side").is_visible()
    assert page.locator("#menu").get_attribute("aria-expanded") == "false"
    page.locator("#menu").click()
    page.get_by_role("button", name="New conversation").click()
    assert not page.locator("#side").is_visible()
    assert page.evaluate("document.activeElement.id") == "menu"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shades_leave_the_text_readable(visit, scheme):
    visit = visit(color_scheme=scheme)
    page = filled(visit)
    page.locator("#kept-text span").last.wait_for()
    assert page.eval_on_selector_all("#kept-text span", CONTRAST) >= 4.5
    back = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(back) < 200) == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(visit, scheme, width):
    """What it tests for WCAG 2.2, and what is good practice; in all states."""
    visit = visit(color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    page = visit.page
    assert findings(page) == []
    filled(visit)
    for summary in page.locator("summary:visible").all():
        summary.click()
    page.locator("#key").scroll_into_view_if_needed()
    assert findings(page) == []
    page.locator(".footnote").click()
    assert findings(page) == []


def test_axe_looks(visit):
    """It finds what has no name."""
    page = visit().page
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    assert [name for name, _ in findings(page)] == ["button-name"]


def findings(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    found = axe.Axe().run(page).response["violations"]
    return [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]


def test_by_keyboard_alone(visit):
    """Add a text, choose it, ask, open its source, come back, ask again, stop."""
    visit = visit()
    page = visit.page
    one = citation("Pasted text.txt", "", TEXT, "The ferry is named Marlow.", ANSWER, "It is Marlow.")
    visit.stub(chunk(ANSWER), chunk(finish_reason="stop", annotations=[one]))
    tab_to(page, "Paste a text")
    page.keyboard.press("Enter")
    tab_to(page, "Text")
    page.keyboard.insert_text(TEXT)
    tab_to(page, "Add this text")
    page.keyboard.press("Enter")
    page.get_by_label("Pasted text.txt", exact=True).wait_for()
    page.evaluate("document.activeElement.blur()")
    tab_to(page, "Pasted text.txt")
    page.keyboard.press("Space")
    assert visit.text("#about").startswith("About no document")
    page.keyboard.press("Space")
    tab_to(page, "Question")
    page.keyboard.type("What is")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("its name?")
    page.keyboard.press("Enter")
    page.locator(".footnote").wait_for()
    assert visit.text("article h3") == "What is\nits name?"
    page.keyboard.press("Shift+Tab")
    tab_to(page, "Source 1: Pasted text.txt", "Shift+Tab")
    page.keyboard.press("Enter")
    assert visit.text("#viewer mark") == "The ferry is named Marlow."
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "footnote"
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: None)
    tab_to(page, "Regenerate")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.innerText") == "Stop"
    page.keyboard.press("Escape")
    visit.wait()
    assert "It is Marlow." in visit.text(".answer")


def test_the_focus_stays_while_an_answer_is_saved(visit):
    visit = visit()
    visit.page.route("**/v1/chat/completions", lambda route: None)
    visit.ask("First?")
    visit.page.get_by_role("button", name="First?", exact=True).focus()
    visit.page.wait_for_timeout(1500)
    assert visit.page.evaluate(NAME_OF) == "First?"


NAME_OF = """() => {
  const one = document.activeElement;
  const label = one.labels?.length ? one.labels[0].innerText : one.innerText;
  return (one.getAttribute("aria-label") || label || "").trim();
}"""


def tab_to(page, name, key="Tab"):
    """Go on with Tab until something with this name has the focus, which must be seen."""
    for _ in range(60):
        if page.evaluate(NAME_OF) == name:
            break
        page.keyboard.press(key)
    assert page.evaluate(NAME_OF) == name
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
