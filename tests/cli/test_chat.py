"""`dapq-edge chat` in a pipe."""

import re

import pytest
from helpers import templates
from helpers.cli import TEXT, assert_one_line, assert_usage, dapq_edge
from helpers.tiny import Spec


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(Spec(n_ctx=4096))


@pytest.fixture
def doc(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_text(TEXT * 4)
    return path


def chat(model, lines, *args, **kwargs):
    return dapq_edge("chat", "-m", model, "-n", 8, "--kv-budget", 200, *args, stdin="\n".join(lines).encode(), **kwargs)


def test_a_part_says_that_it_is_one(model, doc):
    note = "this asks for all of the document, and is answered from a part of it"
    off = "--doc", doc, "--whole", "off"
    assert chat(model, ["Summarize it."], *off).stderr.decode().count(f"{note}: /whole asks all") == 1
    assert note not in chat(model, ["What jumps?"], *off).stderr.decode()
    assert note not in chat(model, ["Summarize it."]).stderr.decode()


def test_chat_in_a_pipe(model, doc, tmp_path):
    """Questions, commands and a session that goes on."""
    saved = tmp_path / "a.session"
    lines = [
        "/help",
        "What jumps?",
        "/stats",
        "/sources",
        "/kept",
        "And\\",
        "what else?",
        f"/save {tmp_path / 'b'}",
        "/exit",
        "never",
    ]
    result = chat(model, lines, "--doc", doc, "--session", saved, "-v")
    error = result.stderr.decode()
    assert result.returncode == 0, error
    assert "/doc FILE" in error
    assert re.search(r"read (all|a part) of the text", error)
    assert error.count("s to first token") == 2
    n_tokens, n_used = re.search(r"([\d,]+) tokens in ([\d,]+) of 768 cells", error).groups()
    assert int(n_tokens.replace(",", "")) > 1500
    # the generation prompt and the answer are behind what is kept
    assert int(n_used) <= 200 + 16 + 8
    assert "quick brown fox" in result.stdout.decode().replace("\n", " ").replace("▁", " ")
    assert saved.read_bytes()[:8] == (tmp_path / "b").read_bytes()[:8] == b"DAPQSES2"
    result = chat(model, ["/stats", "Why?", "/reset", "/stats"], "--session", saved)
    error = result.stderr.decode()
    assert result.returncode == 0
    assert "2 turns" in error
    assert "0 tokens in 0 of 768 cells" in error


def test_chat_reads_a_document_once(model, doc, tmp_path):
    """The same command goes on with a session; a document that changed is added."""
    args = ["--doc", doc, "--session", tmp_path / "a.session", "-v"]

    def n_tokens():
        result = chat(model, ["Why then?"], *args)
        assert result.returncode == 0, result.stderr.decode()
        (count,) = re.findall(r"([\d,]+) tokens in", result.stderr.decode())
        return int(count.replace(",", "")), "is in the conversation" in result.stderr.decode()

    (first, is_there), (second, is_still_there) = n_tokens(), n_tokens()
    assert not is_there
    assert is_still_there
    assert second < first + 200
    doc.write_text(doc.read_text() + "The end.")
    third, is_old = n_tokens()
    assert not is_old
    assert third > 2 * first


def test_chat_refuses(model, doc, tmp_path):
    bad = tmp_path / "bad.session"
    bad.write_bytes(b"DAPQSES2" + bytes(100))
    assert_one_line(chat(model, ["hi"], "--session", bad), 1, "damaged")
    assert_one_line(chat(model, ["/hlep"]), 2, "no command /hlep: /help is one")
    assert_one_line(chat(model, ["/foo bar"]), 2, "no command /foo: /help lists them")
    assert_one_line(chat(model, ["/foo\tbar"]), 2, "no command /foo: /help lists them")
    assert chat(model, ["/usr/bin/w1", " /foo"]).returncode == 0
    assert_one_line(chat(model, ["w1"], "--doc", "-"), 2, "--doc - took stdin, and there is no terminal to ask in")
    assert_one_line(chat(model, ["/doc"]), 2, "/doc needs a file")
    assert_one_line(chat(model, ["/sources"]), 2, "no answer about a document")
    assert_one_line(chat(model, ["/doc /missing.txt"]), 1, "cannot read /missing.txt")
    assert_one_line(chat(model, ["/load /missing"]), 1, "cannot read /missing")
    assert_one_line(chat(model, ["hi"], "--doc", tmp_path / "no"), 1, "cannot read")
    assert_one_line(chat(model, ["hi"], "--kv-budget", "0"), 2, "at least one cell")
    assert_one_line(chat(model, ["hi"], "--policy", "h2o"), 2, "bounded memory")
    assert_one_line(chat(model, ["/save /proc/no/where"], "-c", 512), 1, "cannot write")
    assert_usage(dapq_edge("chat", "-m", model, "-n", 0), "'0'")


def test_what_is_wrong_in_a_pipe_does_not_end_it(model, tmp_path):
    """A line says what, the next one is taken, and the exit code is that of the first error."""
    result = chat(model, ["/load /missing", "/hlep", "/doc /missing.txt", "/sources", "w1", "/stats"])
    error = result.stderr.decode()
    assert result.returncode == 1
    assert [line.split(":")[0] for line in error.splitlines() if "dapq-edge: " in line] == ["dapq-edge"] * 4
    assert "dapq-edge: no command /hlep: /help is one" in error
    assert result.stdout.count(b"\n") >= 1
    assert "0 tokens in" not in error.splitlines()[-1]
    assert chat(model, ["/hlep", "/load /missing", "w1"]).returncode == 2


def test_lines_that_are_no_text(model):
    result = dapq_edge("chat", "-m", model, "-n", 8, stdin=b"w1\xff\n/stats\n")
    error = result.stderr.decode()
    assert result.returncode == 2
    assert "dapq-edge: a line of the input is no text" in error
    assert "0 tokens in 0 of" in error


def test_the_last_line_may_go_on_nowhere(tiny_model):
    model = tiny_model(Spec(n_ctx=4096, template=templates.CHATML))
    result = dapq_edge("chat", "-m", model, "-n", 8, stdin=b"w1\\\nw2\\")
    assert result.returncode == 0
    assert result.stdout
    assert "w1\nw2" in dapq_edge("chat", "-m", model, "-n", 8, stdin=b"w1\\\nw2\r\n/kept").stdout.decode()


def test_a_session_of_what_was_not_read(model, doc, tmp_path):
    """It has the document, and says that nothing of it was read."""
    doc.write_text(" ".join(f"The quick brown fox {i} jumps over the lazy dog {i}." for i in range(60)))
    saved, note = tmp_path / "a", "; what was not read to its end is read with the next question"
    result = chat(model, [f"/doc {doc}", f"/save {saved}"])
    contents = f"{saved}: 0 turns, 1 document for the next question, 0 tokens"
    assert f"{contents} saved{note}" in result.stderr.decode()
    result = chat(model, [f"/load {saved}", "What jumps?", f"/save {saved}"])
    error = result.stderr.decode()
    assert result.returncode == 0
    assert re.search(rf"{re.escape(contents)}, [\d.]+ s{note}", error)
    assert re.search(rf"{saved}: 1 turn, [\d,]{{5,}} tokens saved\n", error)


def test_a_template_without_a_system_role(tiny_model):
    """Its text stands at the start of the first message; and what no form helps against is one line."""
    model = tiny_model(Spec(n_ctx=4096, template=templates.STRICT))
    result = chat(model, ["w1 w2", "/kept"], "-sys", "Be brief.")
    assert result.returncode == 0, result.stderr.decode()
    assert "user\nBe brief.\n\nw1 w2</s>" in result.stdout.decode()
    broken = tiny_model(Spec(n_ctx=4096, template=templates.BROKEN))
    assert_one_line(chat(broken, ["Why?"]), 2, "the chat template of the model refuses the messages")


def test_a_request_without_room_is_said(tiny_model, doc):
    model = tiny_model(Spec(n_ctx=4096, template=templates.CHATML))
    result = chat(model, ["Why? " * 90], "--doc", doc)
    assert result.returncode == 0
    assert "request have no room in half of the cells that are kept" in result.stderr.decode()
    assert "--kv-budget" in result.stderr.decode()
    assert "the answer was cut after 8 tokens: raise -n" in result.stderr.decode()


def test_what_is_no_command_is_a_message(tiny_model):
    model = tiny_model(Spec(n_ctx=4096, template=templates.CHATML))
    for text in ("/usr/bin is what?", "/Nope", " /nope", " /stats"):
        result = chat(model, [text, "/kept"])
        assert result.returncode == 0, result.stderr.decode()
        assert f"user\n{text.strip()}" in result.stdout.decode()


def test_the_system_message_of_a_session_holds(model, tmp_path):
    """Which is said if the command line has another one, and only then."""
    saved = tmp_path / "a.session"
    assert b"holds" not in chat(model, ["w1"], "--session", saved, "-sys", "Be brief.").stderr
    assert b"holds" not in chat(model, ["w2"], "--session", saved, "-sys", "Be brief.").stderr
    assert b"holds" not in chat(model, ["w2"], "--session", saved).stderr
    other = chat(model, ["w3"], "--session", saved, "-sys", "Be long.").stderr.decode()
    assert "its system message holds, not that of -sys: Be brief." in other
    plain = tmp_path / "b.session"
    chat(model, ["w1"], "--session", plain)
    assert "not that of -sys: none" in chat(model, ["w1"], "--session", plain, "-sys", "Be long.").stderr.decode()
