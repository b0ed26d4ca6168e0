"""The pictures of docs/server.md: the page as it is with a real model, light, dark and on a phone.

.venv/bin/python scripts/page_pictures.py FILE... --question "What is ...?" --question "And ...?"

The questions are about the first file.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.page import LONG, Visit, chromium  # noqa: E402
from helpers.serving import serving  # noqa: E402

from dapq_edge import find_model  # noqa: E402

# name: width, height, scheme
PICTURES = {"light": (1180, 860, "light"), "dark": (1180, 860, "dark"), "phone": (360, 740, "light")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--question", action="append", required=True)
    parser.add_argument("--model", default="smollm2-135m")
    args = parser.parse_args()
    with serving(find_model(args.model), "--kv-budget", "1024", "-c", "8192") as server, chromium() as browser:
        visit = Visit(browser, server.url)
        visit.add(*args.files)
        for file in args.files[1:]:
            visit.page.get_by_label(file.name, exact=True).uncheck()
        for question in args.question:
            start = time.monotonic()
            print(visit.answer(question), f"({time.monotonic() - start:.0f} s)")
        # what waits to be read in idle time is read, or found to be too short
        visit.page.locator(".reading", has_text="waits").first.wait_for(state="hidden", timeout=LONG)
        for name, (width, height, scheme) in PICTURES.items():
            _draw(visit.page, name, width, height, scheme)
        visit.page.get_by_label("Show what is kept").check()
        visit.page.locator("#kept-text span").last.wait_for(state="attached")
        # what is about the question
        visit.page.evaluate("document.querySelectorAll('#kept-text span[title]')[400].scrollIntoView()")
        _draw(visit.page, "kept", *PICTURES["light"])
        visit.close()


def _draw(page, name: str, width: int, height: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    if name == "dark" and page.locator(".footnote").count():
        page.locator(".footnote").last.click()
    page.screenshot(path=ROOT / "docs" / "images" / f"page-{name}.png")
    page.keyboard.press("Escape")


if __name__ == "__main__":
    main()
