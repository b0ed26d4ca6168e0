"""`dapq-edge chat` in a terminal."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest
from helpers import templates
from helpers.cli import command
from helpers.tiny import Spec

# a pasted text is asked for, and the prompt is there
READY = r"\x1b\[\?2004h.*?>"


class Terminal:
    """`dapq-edge chat` in a terminal. home: where what was typed is remembered."""

    def __init__(self, *args, home, **streams):
        self.fd, program = pty.openpty()
        # rich shows how far it is only to a terminal that can; nobody answers where the cursor is
        env = {**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(home)}
        streams = {**dict.fromkeys(("stdin", "stdout", "stderr"), program), **streams}
        self.process = subprocess.Popen(command("chat", *args), env=env, start_new_session=True, **streams)
        os.close(program)
        self.text = self.seen = ""

    def wait_for(self, pattern, seconds=300, again=lambda: None):
        end, next_time = time.monotonic() + seconds, time.monotonic() + 2
        while not (match := re.search(pattern, self.text, re.DOTALL)):
            assert time.monotonic() < end, repr(self.text)
            if time.monotonic() > next_time:
                again()
                next_time += 2
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += os.read(self.fd, 4096).decode("utf-8", "replace")
        self.seen, self.text = self.text[: match.end()], self.text[match.end() :]

    def type(self, text):
        os.write(self.fd, text.encode())

    def send(self, line):
        self.type(f"{line}\r")

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def end(self):
        """The exit code."""
        with contextlib.suppress(OSError):
            while os.read(self.fd, 4096):
                pass
        return self.process.wait(300)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.fd)


@pytest.fixture
def start(tiny_model, tmp_path):
    """A function that starts a chat."""
    started = []

    def run(*args, n_predict=4, **streams):
        model = tiny_model(Spec(n_ctx=4096, template=templates.CHATML))
        options = "-m", model, "-n", n_predict, "-t", 1, "-c", 4096, "--kv-budget", "200"
        started.append(Terminal(*options, *args, home=tmp_path / "home", **streams))
        return started[-1]

    yield run
    for one in started:
        one.close()


def test_chat_in_a_terminal(start):
    """Ctrl-C stops an answer and clears a line; a mistake is said, and the program goes on; Ctrl-D leaves."""
    terminal = start(n_predict=3000)
    terminal.wait_for("/help lists the commands")
    terminal.wait_for(READY)
    terminal.send("/hlep")
    terminal.wait_for("no command /hlep: /help is one")
    terminal.wait_for(READY)
    terminal.send("What is it?")
    terminal.wait_for(r"What is it\?")
    terminal.wait_for("reading")
    terminal.interrupt()
    # the answer may hold a "> ", too
    terminal.wait_for("stopped")
    terminal.wait_for(READY)
    terminal.interrupt()
    # Python forgets a signal between the prompt and the wait for a key until the next one
    terminal.wait_for("/exit or Ctrl-D leaves", again=terminal.interrupt)
    terminal.wait_for(READY)
    terminal.send("/stats")
    terminal.wait_for("of 768 cells")
    # before the prompt, the terminal would take it for the end of a line
    terminal.wait_for(READY)
    os.write(terminal.fd, b"\x04")
    assert terminal.end() == 0


def test_a_document_is_read_while_its_user_types(tiny_model, tmp_path, store):
    document = tmp_path / "long.txt"
    document.write_text(" ".join(f"The quick brown fox {i} jumps over the lazy dog {i}." for i in range(140)))
    options = "-n", 4, "-t", 1, "-c", 16384, "--kv-budget", "200", "--doc", document, "-v"
    terminal = Terminal("-m", tiny_model(Spec(n_ctx=16384)), *options, home=tmp_path)
    try:
        terminal.wait_for(READY)
        end = time.monotonic() + 300
        while len(list(store.glob("*.kv"))) < 5:
            assert time.monotonic() < end
            time.sleep(0.05)
        terminal.send("What jumps?")
        terminal.wait_for(r"windows from the store: [0-9]+")
        terminal.wait_for(READY)
        terminal.send("/exit")
        assert terminal.end() == 0
    finally:
        terminal.close()


def test_ctrl_c_stops_a_question_about_all(start, tmp_path, store):
    """What windows answered is kept, and the program goes on."""
    document = tmp_path / "long.txt"
    document.write_text(" ".join(f"The quick brown fox {i} jumps over the lazy dog {i}." for i in range(700)))
    terminal = start("--doc", document)
    terminal.wait_for(READY)
    before = answers_in(store)
    terminal.send("/whole List all animals.")
    end = time.monotonic() + 300
    while len(answers_in(store) - before) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    terminal.interrupt()
    terminal.wait_for("stopped: ask it again, and it goes on where it was")
    stopped = answers_in(store)
    terminal.wait_for(READY)
    terminal.send("/whole List all animals.")
    terminal.wait_for(READY)
    terminal.send("/sources")
    terminal.wait_for("read all of the text")
    assert stopped < answers_in(store)
    terminal.wait_for(READY)
    leave(terminal)


def answers_in(store):
    """Files of answers: they are small."""
    return {path.name for path in store.glob("*.kv") if path.stat().st_size < 2000}


def test_progress_says_what_there_is_to_read(start, tmp_path):
    """Of a short question, of a document, and when there is nothing."""
    document = tmp_path / "long.txt"
    document.write_text(" ".join(f"The quick brown fox {i} jumps over the lazy dog {i}." for i in range(60)))
    terminal = start("--doc", document)
    terminal.wait_for(READY)
    for question in ("What jumps?", "And?", "And?"):
        terminal.send(question)
        terminal.wait_for("was cut")
        totals = {int(total) for total in re.findall(r"\d+/(\d+)", plain(terminal.seen))}
        assert not totals & {0, 1, 100}
        terminal.wait_for(READY)
    leave(terminal)


def leave(terminal):
    terminal.send("/exit")
    assert terminal.end() == 0


def plain(text):
    """A text of the terminal without what moves and colours it."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", text)


def kept(terminal):
    """What the model has of the conversation."""
    terminal.send("/kept")
    terminal.wait_for(r"/kept[^/]*?\x1b\[\?2004l")
    terminal.wait_for(READY)
    return plain(terminal.seen)


def test_a_pasted_text_is_one_message(start):
    """Whatever lines it has, also such that begin as commands do."""
    terminal = start()
    terminal.wait_for(READY)
    terminal.type("\x1b[200~/exit\n/hlep w1\n\nw2\x1b[201~")
    terminal.type("\r")
    terminal.wait_for(READY)
    assert "user\n/exit\n/hlep w1\n\nw2" in kept(terminal)
    leave(terminal)


@pytest.mark.parametrize("keys", ["w3\\\rw4\r", "w3\x1b\rw4\r"])
def test_a_message_of_several_lines(start, keys):
    """By a backslash at the end of a line, or by Alt-Enter."""
    terminal = start()
    terminal.wait_for(READY)
    terminal.type(keys)
    terminal.wait_for(READY)
    assert "user\nw3\nw4" in kept(terminal)
    leave(terminal)


@pytest.mark.parametrize("text", ["/usr/bin is what?", "/w1", " /stat"])
def test_what_is_no_command_is_a_message(start, text):
    terminal = start()
    terminal.wait_for(READY)
    terminal.send(text)
    terminal.wait_for("was cut")
    terminal.wait_for(READY)
    assert f"user\n{text.strip()}" in kept(terminal)
    leave(terminal)


def test_commands_and_files_are_completed(start, tmp_path, monkeypatch):
    # a long path would be drawn in two lines
    monkeypatch.chdir(tmp_path)
    (tmp_path / "only-this.txt").write_text("w1 w2")
    terminal = start()
    terminal.wait_for(READY)
    terminal.type("/sta")
    terminal.wait_for("/sta")
    # only what changes is drawn
    terminal.type("\t")
    terminal.wait_for("ts")
    terminal.send("")
    terminal.wait_for("of 768 cells")
    terminal.wait_for(READY)
    terminal.type("/doc onl")
    terminal.wait_for("onl")
    terminal.type("\t")
    terminal.wait_for("y-this.txt")
    terminal.send("")
    terminal.wait_for("only-this.txt: [0-9]+ tokens")
    terminal.wait_for(READY)
    leave(terminal)


def test_history(start, tmp_path):
    """Of this process and of the last one; readable by its owner only, and none with --no-store."""
    terminal = start()
    terminal.wait_for(READY)
    terminal.send("/stats")
    terminal.wait_for("of 768 cells")
    terminal.wait_for(READY)
    leave(terminal)
    (path,) = (tmp_path / "home").rglob("chat_history")
    assert path.stat().st_mode & 0o077 == 0
    terminal = start()
    terminal.wait_for(READY)
    # the one before /exit
    terminal.type("\x1b[A\x1b[A")
    terminal.wait_for("/stats")
    terminal.send("")
    terminal.wait_for("of 768 cells")
    terminal.wait_for(READY)
    leave(terminal)
    path.unlink()
    terminal = start("--no-store")
    terminal.wait_for(READY)
    leave(terminal)
    assert not path.exists()


def test_a_document_from_a_pipe(start):
    """Questions come from the terminal then."""
    terminal = start("--doc", "-", stdin=subprocess.PIPE)
    terminal.process.stdin.write(b"w1 w2 w3 " * 20)
    terminal.process.stdin.close()
    terminal.wait_for(READY)
    terminal.send("w5")
    terminal.wait_for("was cut")
    terminal.wait_for(READY)
    assert re.search(r"w1 w2 w3\s+w5", kept(terminal))
    leave(terminal)
