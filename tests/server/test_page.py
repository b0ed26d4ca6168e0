"""The page of the server: documents, questions, and what stays of them."""

import pytest
from helpers.page import LONG, chunk, needs_chromium
from helpers.serving import serving
from helpers.tiny import Spec

pytestmark = [needs_chromium, pytest.mark.slow]

FERRY = "The ferry is named Marlow. " * 60


def test_ask_about_files(visit):
    """Add two, ask about one, then about both: what is sent is their texts and the question."""
    visit = visit()
    bodies = visit.stub(chunk("It is "), chunk("Marlow."), chunk(finish_reason="stop"))
    visit.add(("a.txt", "The ferry is named Marlow."), ("b.md", "# Gulls\n\nThey cry."))
    assert visit.page.locator("#documents > li").count() == 2
    assert "tokens" in visit.text("#documents > li")
    visit.page.get_by_label("b.md", exact=True).uncheck()
    assert visit.answer("What is its name?") == "It is Marlow."
    visit.page.get_by_label("b.md", exact=True).check()
    visit.answer("And the gulls?")
    contents = [[message["content"] for message in body["messages"]] for body in bodies]
    assert contents[0] == ["The ferry is named Marlow.\n\nWhat is its name?"]
    assert contents[1] == ["a.txt\nThe ferry is named Marlow.\n\nb.md\n# Gulls\n\nThey cry.\n\nAnd the gulls?"]
    assert visit.text("article .about") == "About a.txt, b.md"
    visit.page.get_by_role("button", name="Remove a.txt").click()
    assert visit.page.locator("#documents > li").count() == 1
    assert visit.page.evaluate("document.activeElement.closest('li').innerText").startswith("b.md")


def test_without_documents_the_conversation_goes_on(visit):
    visit = visit()
    bodies = visit.stub(chunk("Yes."), chunk(finish_reason="stop"))
    visit.answer("One?")
    visit.answer("Two?")
    assert [message["content"] for message in bodies[1]["messages"]] == ["One?", "Yes.", "Two?"]


def test_the_answer_of_a_model_streams(visit):
    """A real server: the memory, the progress of reading, and what is kept."""
    visit = visit()
    visit.add(("notes.md", FERRY))
    visit.page.get_by_label("Show what is kept").check()
    visit.ask("What is the name of the ferry?")
    visit.page.locator("#kept-text span").nth(100).wait_for(state="attached", timeout=LONG)
    assert visit.text(".answer")
    assert visit.page.locator("article .error:not(:empty)").count() == 0
    assert "ferry" in visit.text("#kept-text")
    shades = visit.page.eval_on_selector_all("#kept-text span", "all => all.map(one => one.style.background)")
    assert len(set(shades)) > 3
    assert "" in shades
    assert "of 768 cells" in visit.text("#figures")
    assert 10 < int(visit.page.get_attribute("#gauge", "aria-valuenow")) <= 100
    visit.page.get_by_label("Show what is kept").uncheck()
    assert not visit.page.locator("#kept").is_visible()


def test_a_long_document_shows_how_far_it_is_read(visit, tiny_model):
    with serving(tiny_model(Spec(n_ctx=32768)), "--kv-budget", "200", "-c", "32768") as server:
        visit = visit(server.url)
        visit.add(("long.txt", "\n".join(f"The clerk counted crate {i}." for i in range(700))))
        visit.page.locator("#documents progress").wait_for(timeout=LONG)
        assert " of " in visit.text("#documents .reading")
        visit.page.locator("#documents .reading", has_text=", read").wait_for(timeout=LONG)


def test_the_document_that_is_read_is_known_by_its_name(visit):
    """Whatever others are as long."""
    visit = visit()
    usage = visit.page.request.get(f"{visit.url}/api/usage").json()
    usage |= {"reading_done": 3000, "reading_total": 6000, "reading_document": "a.txt"}
    usage |= {"unread_documents": ["a.txt", "b.txt"]}
    visit.page.route("**/api/usage", lambda route: route.fulfill(json=usage))
    visit.add(("a.txt", FERRY), ("b.txt", f"{FERRY} Again."))
    readings = visit.page.locator("#documents .reading")
    readings.get_by_text("3,000 of 6,000 read").wait_for()
    assert readings.all_inner_texts() == [", 3,000 of 6,000 read", ", waits to be read"]
    assert "reading a.txt: 3,000 of 6,000 tokens" in visit.text("#figures")
    usage |= {"reading_document": "b.txt", "unread_documents": ["b.txt"]}
    readings.get_by_text(", read").wait_for()
    assert readings.all_inner_texts() == [", read", ", 3,000 of 6,000 read"]


def test_a_reload_keeps_conversations_and_documents(visit):
    visit = visit()
    visit.stub(chunk("Marlow."), chunk(finish_reason="stop"), end="data: [DONE]\n\n")
    visit.add(("a.txt", FERRY))
    visit.answer("First question?")
    visit.page.get_by_role("button", name="New conversation").click()
    assert visit.page.locator("article").count() == 0
    visit.answer("Second question?")
    visit.load()
    assert visit.text("article h3") == "Second question?"
    assert visit.text(".answer") == "Marlow."
    assert visit.page.get_by_label("a.txt", exact=True).is_checked()
    visit.page.get_by_role("button", name="First question?", exact=True).click()
    assert visit.text("article h3") == "First question?"
    visit.page.on("dialog", lambda dialog: dialog.accept())
    visit.page.get_by_role("button", name="Delete the conversation: First question?").click()
    assert visit.text("article h3") == "Second question?"
    visit.load()
    assert visit.page.locator("#conversations > li").count() == 1
    bodies = visit.stub(chunk("Marlow."), chunk(finish_reason="stop"))
    visit.answer("Is the text still there?")
    assert bodies[0]["messages"][0]["content"].startswith(FERRY.strip())


def test_stop_copy_regenerate(visit):
    """Stop a stream of a real server: what came stays. An answer is copied, and another one asked for."""
    visit = visit(permissions=["clipboard-read", "clipboard-write"])
    visit.ask("Why?")
    visit.page.locator(".answer:not(:empty)").wait_for(timeout=LONG)
    visit.page.get_by_role("button", name="Stop").click()
    visit.wait()
    assert "Stopped" in visit.text("article .notes")
    bodies = visit.stub(chunk("Be"), chunk("cause.\n\n```\nx = 1\n```"), chunk(finish_reason="length"))
    visit.page.get_by_role("button", name="Ask again").click()
    visit.wait()
    assert visit.text(".answer pre") == "x = 1"
    assert "The answer is cut" in visit.text("article .notes")
    visit.page.get_by_role("button", name="Copy").click()
    visit.page.get_by_text("Copied.").wait_for()
    assert visit.page.evaluate("navigator.clipboard.readText()") == "Because.\n\n```\nx = 1\n```"
    visit.stub(chunk("Therefore."), chunk(finish_reason="stop"))
    visit.page.get_by_role("button", name="Regenerate").click()
    visit.page.locator(".answer", has_text="Therefore.").wait_for()
    assert visit.page.locator("article").count() == 1
    assert bodies[0]["temperature"] == 0


def test_a_page_that_is_closed_while_it_is_answered_says_so(visit):
    visit = visit()
    visit.page.route("**/v1/chat/completions", lambda route: None)
    visit.ask("Why?")
    visit.page.wait_for_timeout(300)
    visit.load()
    assert "closed before the answer ended" in visit.text("article .notes")
    assert visit.text("article h3") == "Why?"


def test_files_are_dropped(visit):
    visit = visit()
    drop = (
        "() => { const data = new DataTransfer();"
        "data.items.add(new File(['Gulls cry.'], 'a.txt')); data.items.add(new File(['Crates.'], 'b.txt'));"
        "for (const type of ['dragover', 'drop'])"
        "document.body.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true})) }"
    )
    visit.page.evaluate(drop)
    visit.page.get_by_label("b.txt", exact=True).wait_for()
    assert visit.page.locator("#documents bdi").all_inner_texts() == ["a.txt", "b.txt"]


def test_a_name_means_one_document(visit):
    """Answers name documents: another one of that name gets a number, and the same text is no other one."""
    visit = visit()
    visit.add(("a.txt", "Gulls cry."))
    visit.add(("a.txt", "Crates."), ("b.txt", "Gulls cry."))
    assert visit.page.locator("#documents bdi").all_inner_texts() == ["a.txt", "a (2).txt"]


def test_another_conversation_while_one_is_answered(visit):
    visit = visit()
    visit.page.route("**/v1/chat/completions", lambda route: None)
    visit.ask("First?")
    visit.page.get_by_role("button", name="New conversation").click()
    assert "of another conversation is answered" in visit.text("#about")
    visit.page.get_by_role("button", name="Stop").click()
    visit.wait()
    assert "another" not in visit.text("#about")
    visit.page.get_by_role("button", name="First?", exact=True).click()
    assert "Stopped" in visit.text("article .notes")


def test_the_page_loads_its_own_files_only(server):
    policy = server.client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert server.client.get("/page/main.js").headers["content-type"].startswith("text/javascript")
    assert server.client.get("/page/main.js").headers["content-security-policy"] == policy
    for name in ("app.py", "..%2Fapp.py", "%2e%2e/app.py", ""):
        assert server.client.get(f"/page/{name}").status_code == 404
