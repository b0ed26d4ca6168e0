"""The page of the server, as a person uses it, in headless Chromium."""

import shutil

import pytest
from helpers.serving import serving
from helpers.tiny import Spec

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian, Ubuntu: apt install chromium)")


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


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--disable-component-update"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tiny_model):
    with serving(tiny_model(Spec(n_ctx=4096)), "--kv-budget", "200") as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_ask_about_a_file(browser, server, tmp_path, width):
    """Upload, ask, see the answer, the gauge and the shaded text; nothing is wider than the screen."""
    document = tmp_path / "notes.md"
    document.write_text("The ferry is named Marlow. " * 60)
    page = browser.new_page(viewport={"width": width, "height": 844})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(server.url)
    page.set_input_files("#file", document)
    page.locator("#count").filter(has_text="tokens").wait_for()
    page.get_by_role("textbox", name="Question").fill("What is the name of the ferry?")
    page.get_by_role("button", name="Ask").click()
    page.locator("#text span").nth(100).wait_for(state="attached", timeout=300_000)
    assert page.text_content("#error") == ""
    assert "ferry" in page.text_content("#text")
    shades = page.eval_on_selector_all("#text span", "spans => spans.map(span => span.style.background)")
    assert len(set(shades)) > 3
    assert "" in shades
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.eval_on_selector_all("#text span", CONTRAST) >= 4.5
    assert "of 768 cells" in page.text_content("#figures")
    assert 10 < int(page.get_attribute("#gauge", "aria-valuenow")) <= 100
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
    assert all(url.startswith(server.url) for url in requests)
    page.screenshot(path=tmp_path / f"page{width}.png", full_page=True)
    page.close()


@pytest.mark.slow
def test_what_is_wrong_is_said(browser, server):
    page = browser.new_page()
    page.goto(server.url)
    page.get_by_role("textbox", name="Question").fill("Why?")
    page.get_by_label("Cells to keep").fill("-5")
    page.get_by_role("button", name="Ask").click()
    page.locator("#error").filter(has_text="kv_budget").wait_for()
    page.get_by_label("Cells to keep").fill("64")
    page.get_by_role("button", name="Ask").click()
    page.locator("#text span").first.wait_for(state="attached", timeout=300_000)
    assert page.text_content("#error") == ""
    page.close()
