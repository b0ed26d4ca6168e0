"""The page of the server in headless Chromium, as a person uses it."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian, Ubuntu: apt install chromium)")

# milliseconds for what a model does
LONG = 300_000


@contextmanager
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--disable-component-update"])
        yield browser
        browser.close()


class Visit:
    """A page, and what went wrong on it that it did not say."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(**options)
        self.url, self.errors, self.requests = url, [], []
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.load()

    def _note(self, message):
        # Chromium says so of each status that is no success, and the page says it too
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def load(self):
        self.page.goto(self.url)
        self.page.locator("#about:not(:empty)").wait_for()

    def text(self, selector):
        return self.page.locator(selector).last.inner_text()

    def add(self, *files):
        """Add files: paths, or pairs of a name and a text."""
        self.page.set_input_files("#files", [_payload(file) for file in files])
        self.page.locator("#adding:empty").wait_for(state="attached", timeout=LONG)

    def ask(self, question):
        self.page.get_by_role("textbox", name="Question").fill(question)
        self.page.get_by_role("button", name="Ask", exact=True).click()

    def wait(self):
        """Wait until nothing is answered."""
        self.page.locator("#send", has_text="Ask").wait_for(timeout=LONG)

    def answer(self, question):
        """Ask, and return the answer."""
        self.ask(question)
        self.wait()
        return self.text(".answer")

    def stub(self, *chunks, end="data: [DONE]\n\n"):
        """Answer the next questions with chunks of a stream; return the list of their bodies."""
        bodies = []
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end

        def fulfill(route):
            bodies.append(route.request.post_data_json)
            route.fulfill(status=200, content_type="text/event-stream", body=body)

        self.page.unroute("**/v1/chat/completions")
        self.page.route("**/v1/chat/completions", fulfill)
        return bodies

    def close(self):
        self.context.close()
        assert self.errors == []
        assert all(url.startswith(self.url) for url in self.requests)


def _payload(file):
    if isinstance(file, Path):
        return {"name": file.name, "mimeType": "application/octet-stream", "buffer": file.read_bytes()}
    name, text = file
    return {"name": name, "mimeType": "text/plain", "buffer": text.encode()}


def chunk(content="", finish_reason=None, annotations=None, **more):
    """A chunk of a stream."""
    delta = {"content": content} | ({"annotations": annotations} if annotations is not None else {})
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **more}


def citation(filename, page, text, quote, answer, sentence):
    """An annotation: `quote` of a document's text for a sentence of the answer."""
    start, stop = text.index(quote), text.index(quote) + len(quote)
    end = answer.index(sentence) + len(sentence)
    fields = {"filename": filename, "page": page, "quote": quote, "weight": 0.5}
    places = {"start_index": answer.index(sentence), "end_index": end, "document_start": start, "document_end": stop}
    return {"type": "file_citation", "file_citation": fields | places}
