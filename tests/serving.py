"""A server on loopback, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]


# a random model writes parts of characters, which llama-cpp-python does not count
LETTERS = "root ::= [a-z]*"


class Running:
    """The process, its address and a client."""

    def __init__(self, process, url, headers):
        self.process, self.url = process, url
        self.client = httpx.Client(base_url=url, headers=headers, timeout=60)

    def chat(self, content="a b c", **options):
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "grammar": LETTERS, **options}
        return self.client.post("/v1/chat/completions", json=body)

    def stop(self):
        """Seconds that it takes to end, and the exit code."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=20)
        return time.monotonic() - start, code


@contextmanager
def serving(model, *options, key=None):
    command = [sys.executable, "-m", "dapq_edge", "serve", "-m", str(model), "--port", "0", "-t", "1", "-a", "tiny"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"LLAMA_API_KEY": key} if key else {})
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, cwd=ROOT, env=env, text=True)
    line = process.stderr.readline()
    match = re.search(r"http://\S+", line)
    assert match, line
    running = Running(process, match[0], {"authorization": f"Bearer {key}".encode()} if key else {})
    try:
        for _ in range(200):
            try:
                running.client.get("/health")
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        yield running
    finally:
        running.client.close()
        process.kill()
        process.wait()
