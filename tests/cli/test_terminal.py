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
from helpers.cli import command
from helpers.tiny import Spec


class Terminal:
    """`dapq-edge chat` in a terminal."""

    def __init__(self, *args):
        self.fd, program = pty.openpty()
        # rich shows how far it is only to a terminal that can
        env = {**os.environ, "TERM": "xterm-256color"}
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), program)
        self.process = subprocess.Popen(command("chat", *args), env=env, start_new_session=True, **streams)
        os.close(program)
        self.text = ""

    def wait_for(self, pattern, seconds=300, again=lambda: None):
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
def terminal(tiny_model):
    model = tiny_model(Spec(n_ctx=4096))
    terminal = Terminal("-m", model, "-n", 3000, "-t", 1, "-c", 4096, "--kv-budget", "200")
    yield terminal
    terminal.close()


def test_chat_in_a_terminal(terminal):
    """Ctrl-C stops an answer and clears a line; a mistake is said, and the program goes on; Ctrl-D leaves."""
    terminal.wait_for("/help lists the commands")
    terminal.wait_for("> ")
    terminal.send("/nope")
    terminal.wait_for("no command /nope")
    terminal.wait_for("> ")
    terminal.send("What is it?")
    terminal.wait_for(r"What is it\?")
    terminal.wait_for("reading")
    terminal.interrupt()
    # the answer may hold a "> ", too
    terminal.wait_for("stopped")
    terminal.wait_for("> ")
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


def test_a_document_is_read_while_its_user_types(tiny_model, tmp_path, store):
    document = tmp_path / "long.txt"
    document.write_text(" ".join(f"The quick brown fox {i} jumps over the lazy dog {i}." for i in range(140)))
    options = "-n", 4, "-t", 1, "-c", 16384, "--kv-budget", "200", "--doc", document, "-v"
    terminal = Terminal("-m", tiny_model(Spec(n_ctx=16384)), *options)
    try:
        terminal.wait_for("> ")
        end = time.monotonic() + 300
        while len(list(store.glob("*.kv"))) < 5:
            assert time.monotonic() < end
            time.sleep(0.05)
        terminal.send("What jumps?")
        terminal.wait_for(r"took [0-9]+ windows from the store")
        terminal.wait_for("> ")
        terminal.send("/exit")
        assert terminal.end() == 0
    finally:
        terminal.close()
