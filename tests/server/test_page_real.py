"""The page with a real model and a real server: an answer, its source, and the passage in the document."""

import re

import pytest
from helpers.page import needs_chromium
from helpers.real import find
from helpers.serving import serving

pytestmark = [needs_chromium, pytest.mark.slow]

FACT = "The access code of the archive is 48213."
PARTS = [
    f"# Room {i}\n\nThe clerk of room {i} counted crates, gulls and lamps, and wrote it all down." for i in range(40)
]
DOCUMENT = "\n\n".join([*PARTS[:25], f"# Archive\n\n{FACT}", *PARTS[25:]])


def test_an_answer_and_its_source(visit, tmp_path):
    with serving(
        find("smollm2-135m"), "--kv-budget", "256", "-c", "4096", "--store", str(tmp_path / "store")
    ) as server:
        visit = visit(server.url)
        visit.add(("rooms.md", DOCUMENT))
        assert "48213" in visit.answer("What is the access code of the archive?")
        assert visit.text(".coverage").startswith("Based on: read ")
        visit.page.get_by_role("button", name="Source 1: rooms.md").first.click()
        quote = visit.text("#viewer mark")
        assert "48213" in quote
        assert "Archive" in visit.text("#viewer-title")
        visit.page.keyboard.press("Escape")
        quoted = visit.text(".sources li:first-child q")
        assert re.sub(r"\s+", " ", quoted) in re.sub(r"\s+", " ", quote)
