"""chat, kept, plan and serve on the command line."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest
from test_cli import TEXT, assert_one_line, assert_usage, command, dapq_edge
from tiny import Spec


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


def test_chat_in_a_pipe(model, doc, tmp_path):
    """Questions, commands and a session that goes on."""
    saved = tmp_path / "a.session"
    lines = [
        "/help",
        "What jumps?",
        "/stats",
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
    assert "/doc FILE" in error and error.count("s to first token") == 2
    n_tokens, n_used = re.search(r"([\d,]+) tokens in ([\d,]+) of 768 cells", error).groups()
    assert int(n_tokens.replace(",", "")) > 1500 and int(n_used) <= 208
    assert "quick brown fox" in result.stdout.decode().replace("\n", " ").replace("▁", " ")
    assert saved.read_bytes()[:8] == (tmp_path / "b").read_bytes()[:8] == b"DAPQSES1"
    result = chat(model, ["/stats", "Why?", "/reset", "/stats"], "--session", saved)
    error = result.stderr.decode()
    assert result.returncode == 0 and "2 turns" in error and "0 tokens in 0 of 768 cells" in error


def test_chat_reads_a_document_once(model, doc, tmp_path):
    """The same command goes on with a session; a document that changed is added."""
    args = ["--doc", doc, "--session", tmp_path / "a.session", "-v"]

    def n_tokens():
        result = chat(model, ["Why?"], *args)
        assert result.returncode == 0, result.stderr.decode()
        (count,) = re.findall(r"([\d,]+) tokens in", result.stderr.decode())
        return int(count.replace(",", "")), "is in the conversation" in result.stderr.decode()

    (first, is_there), (second, is_still_there) = n_tokens(), n_tokens()
    assert not is_there and is_still_there and second < first + 200
    doc.write_text(doc.read_text() + "The end.")
    third, is_old = n_tokens()
    assert not is_old and third > 2 * first


def test_chat_refuses(model, doc, tmp_path):
    bad = tmp_path / "bad.session"
    bad.write_bytes(b"DAPQSES1" + bytes(100))
    assert_one_line(chat(model, ["hi"], "--session", bad), 1, "damaged")
    assert_one_line(chat(model, ["/nope"]), 2, "no command /nope")
    assert_one_line(chat(model, ["/doc"]), 2, "/doc needs a file")
    assert_one_line(chat(model, ["/doc /missing.txt"]), 1, "cannot read /missing.txt")
    assert_one_line(chat(model, ["/load /missing"]), 1, "cannot read /missing")
    assert_one_line(chat(model, ["hi"], "--doc", tmp_path / "no"), 1, "cannot read")
    assert_one_line(chat(model, ["hi"], "--kv-budget", "0"), 2, "at least one cell")
    assert_one_line(chat(model, ["hi"], "--policy", "h2o"), 2, "bounded memory")
    assert_one_line(chat(model, ["/save /proc/no/where"], "-c", 512), 1, "cannot write")
    assert_usage(dapq_edge("chat", "-m", model, "-n", 0), "'0'")


class Terminal:
    """`dapq-edge chat` in a terminal."""

    def __init__(self, *args):
        pid, self.fd = pty.fork()
        if pid == 0:
            # a shell ignores it for what it runs in the background, and so would the program
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execvp(command()[0], command("chat", *args))
        self.pid, self.text = pid, ""

    def wait_for(self, pattern, seconds=60, again=lambda: None):
        end, next_time = time.monotonic() + seconds, time.monotonic() + 2
        while not (match := re.search(pattern, self.text)):
            assert time.monotonic() < end, repr(self.text)
            if time.monotonic() > next_time:
                again()
                next_time += 2
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += os.read(self.fd, 4096).decode("utf-8", "replace")
        self.text = self.text[match.end() :]

    def send(self, line):
        os.write(self.fd, line.encode() + b"\n")

    def interrupt(self):
        os.kill(self.pid, signal.SIGINT)

    def end(self, seconds=60):
        """The exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if select.select([self.fd], [], [], 0.1)[0] and not os.read(self.fd, 4096):
                    break
            except OSError:
                break
        else:
            os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_chat_in_a_terminal(model):
    """Ctrl-C stops an answer and clears a line; a mistake is said, and the program goes on; Ctrl-D leaves."""
    terminal = Terminal("-m", model, "-n", 3000, "-t", 1, "-c", 4096, "--kv-budget", "200")
    terminal.wait_for("/help lists the commands")
    terminal.wait_for("> ")
    terminal.send("/nope")
    terminal.wait_for("no command /nope")
    terminal.wait_for("> ")
    terminal.send("What is it?")
    terminal.wait_for(r"What is it\?")
    time.sleep(0.5)
    terminal.interrupt()
    # the answer may hold a "> ", too
    terminal.wait_for("stopped", 20)
    terminal.wait_for("> ")
    time.sleep(0.5)
    terminal.interrupt()
    # Python forgets a signal between the prompt and the wait for a key until the next one
    terminal.wait_for("/exit or Ctrl-D leaves", again=terminal.interrupt)
    terminal.wait_for("> ")
    terminal.send("/stats")
    terminal.wait_for("of 768 cells")
    # before the prompt, the terminal would take it for the end of a line
    terminal.wait_for("> ")
    os.write(terminal.fd, b"\x04")
    assert terminal.end() == 0


def test_kept(model, doc, tmp_path):
    page, picture = tmp_path / "kept.html", tmp_path / "kept.png"
    options = "kept", "-m", model, "--doc", doc, "--kv-budget", 100, "What jumps?"
    result = dapq_edge(*options)
    assert result.returncode == 0 and "keeps 100 of" in result.stderr.decode()
    assert "fox" in result.stdout.decode()
    shaded = dapq_edge(*options, FORCE_COLOR="1", COLORTERM="truecolor", TERM="xterm-256color").stdout.decode()
    assert "\x1b[" in shaded and "48;2;" in shaded
    result = dapq_edge(*options, "--html", page, "--plot", picture, "--layer", 1)
    assert result.returncode == 0 and result.stdout == b"" and "layer 1" in result.stderr.decode()
    text = page.read_text()
    assert text.startswith("<!doctype html>") and "% of the heads" in text and "What jumps?" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert_one_line(dapq_edge(*options, "--layer", 99), 2, "--layer 99: choose one of 0, 1, 2")
    assert_one_line(dapq_edge(*options, "--html", "/proc/no/x"), 1, "cannot write")


def test_page_escapes_the_document(model, tmp_path):
    doc, page = tmp_path / "a.md", tmp_path / "a.page"
    doc.write_text("<script>alert(1)</script> & text. " * 5)
    result = dapq_edge("kept", "-m", model, "--doc", doc, "<b>Why?</b>", "--html", page)
    assert result.returncode == 0 and "<script" not in page.read_text() and "<b>" not in page.read_text()


def test_plan(model, tmp_path):
    result = dapq_edge("plan", "-m", model, "--ram", "100M", "-c", 100000, "--json")
    data = json.loads(result.stdout)
    assert result.returncode == 0 and data
    assert_one_line(dapq_edge("plan", "-m", model, "--ram", "x"), 2, "--ram")
    assert_one_line(dapq_edge("plan", "-m", model, "--ram", "1M"), 1, "cells need")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:500])
    assert_one_line(dapq_edge("plan", "-m", cut, "--ram", "1G"), 1, "broken or truncated")


def test_auto_budget(model, doc):
    result = dapq_edge("ask", "-m", model, "--doc", doc, "--kv-budget", "auto", "-n", 2, "--json", "What jumps?")
    data = json.loads(result.stdout)
    assert (
        data["reading"] == "all" and data["kv_cells_kept"] == data["prompt_tokens"] and data["attention_held"] is None
    )


def test_completion(model):
    """What a shell asks for when TAB is pressed."""
    env = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": "dapq-edge ch",
        "COMP_POINT": "12",
        "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout",
    }
    run = [command()[0], "-m", "dapq_edge"]
    result = subprocess.run(run, capture_output=True, env={**os.environ, **env}, timeout=60)
    assert "chat" in result.stdout.decode()
