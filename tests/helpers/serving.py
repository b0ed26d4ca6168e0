"""A server on loopback, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import httpx

from .paths import ROOT
from .processes import until

# a random model writes parts of characters, which are no text
LETTERS = "root ::= [a-z]*"


class Running:
    """The process, its address and a client."""

    def __init__(self, process, log, url, key):
        self.process, self._log, self.url = process, log, url
        headers = {"authorization": f"Bearer {key}".encode()} if key else {}
        # it listens before it serves
        self.client = httpx.Client(base_url=url, headers=headers, timeout=300)

    def log(self):
        self._log.seek(0)
        return self._log.read()

    def chat(self, content="a b c", **options):
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "grammar": LETTERS, **options}
        return self.client.post("/v1/chat/completions", json=body)

    def usage(self):
        """What the server holds after the last answer: it looks when all of it was sent, and before the next job."""
        self.client.get("/api/kept")
        return self.client.get("/api/usage").json()

    def stop(self):
        """The exit code, when it has ended."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=300)


@contextmanager
def serving(model, *options, key=None):
    command = [sys.executable, "-m", "dapq_edge", "serve", "-m", str(model), "--port", "0", "-t", "1", "-a", "tiny"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"LLAMA_API_KEY": key} if key else {})
    # a pipe that nobody reads would stop the server
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, *options], stderr=log, cwd=ROOT, env=env)
        try:
            running = Running(process, log, _address(process, log), key)
            with running.client:
                yield running
        finally:
            process.kill()
            process.wait()


def _address(process, log):
    def said():
        log.seek(0)
        return re.search(r"http://\S+\n", log.read())

    return until(said, process)[0].strip()


LONG = "abc def ghi. " * 100


def assert_error(response, status, *words, code=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert all(word in error["message"] for word in words), error
    assert "\n" not in error["message"], error


def metric(server, name):
    line = next(line for line in server.client.get("/metrics").text.splitlines() if line.startswith(name + " "))
    return float(line.split()[-1])
