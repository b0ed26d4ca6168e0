"""What needs a process of its own: signals, pipes, limits and exit codes."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers.cli import TEXT, ask, assert_one_line, command, dapq_edge, process, started
from helpers.needles import NEEDLES
from helpers.tiny import Spec


def test_completion(model):
    """What a shell asks for when TAB is pressed."""
    env = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": "dapq-edge ch",
        "COMP_POINT": "12",
        "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout",
    }
    run = [sys.executable, "-m", "dapq_edge"]
    result = subprocess.run(run, capture_output=True, env={**os.environ, **env}, timeout=300)
    assert "chat" in result.stdout.decode()


def test_version_and_policies():
    lines = process("--version").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["dapq-edge", "patch", "llama.cpp", "wheel", "backends"]
    assert "0c1e57098" in lines[2]
    assert re.fullmatch(r"wheel py3-none-\w+, (built on this machine|build \d+_[0-9a-f]{16})", lines[3])
    assert "CPU" in lines[4]
    assert ("ggml-cpu" in lines[4]) == (sys.platform == "linux")
    names = [line.split()[0] for line in dapq_edge("policies").stdout.decode().splitlines()]
    assert {"full", "streaming", "dapq", "fused"} <= set(names)


def limited(mib: int, *args: object) -> subprocess.CompletedProcess:
    """With an address space of so many MiB."""
    shell = ["sh", "-c", f'ulimit -v {mib * 1024}; exec "$@"', "sh", *command(*args)]
    return subprocess.run(shell, capture_output=True, timeout=300)


def test_context_that_cannot_be_opened(model, doc):
    # the K and V of so many cells would take 12 GiB
    result = limited(4096, "ask", "-m", model, "--doc", doc, "Why?", "-c", 2**23)
    assert_one_line(result, 1, "cannot open a context of 8388608 cells", "not enough memory", "lower -c")
    result = limited(4096, "ask", "-m", model, "--doc", doc, "Why?", "-n", 2**23, "--allow-overflow")
    assert_one_line(result, 1, "not enough memory", "-n")
    assert_one_line(ask(model, doc, "-fa", "off", "-ctv", "q4_0"), 1, "cannot open a context", "flash_attn")


def test_reader_of_the_output_goes_away(model, doc):
    with started("ask", "-m", model, "--doc", doc, "Why?", "-n", 200) as running:
        running.stdout.close()
        error = running.stderr.read().decode()
        assert running.wait(300) == 1
    assert "Traceback" not in error
    assert "Exception" not in error


# what a test can wait for: the batches are read without a sign
SAY_READING = """
import llama_cpp
decode = llama_cpp.llama_decode
def say_reading(*args):
    llama_cpp.llama_decode = decode
    print("reading", flush=True)
    return decode(*args)
llama_cpp.llama_decode = say_reading
"""


@pytest.mark.slow
@pytest.mark.parametrize("while_generating", [False, True])
def test_interrupt(tiny_model, tmp_path, while_generating):
    """Ctrl-C while reading and while generating: one line, 130."""
    path = tmp_path / "long.txt"
    path.write_text(TEXT if while_generating else TEXT * 400)
    model = tiny_model(Spec(n_ctx=500_000))
    args = ["ask", "-m", model, "--doc", path, "Why?", "-n", 100_000, "-t", 1, "-b", 64]
    with started(*args, before="" if while_generating else SAY_READING) as running:
        assert running.stdout.read(1)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=300)
    assert running.returncode == 130
    assert error.decode().splitlines()[-1] == "dapq-edge: interrupted"
    assert "Traceback" not in error.decode()


def test_arguments_that_are_no_text(model, doc):
    question = b"What is a caf\xe9?"
    args = [*map(os.fsencode, command("ask", "-m", model, "--doc", doc, "-n", 2)), question]
    result = subprocess.run(args, capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr.decode()


def test_output_to_a_full_disk():
    with open("/dev/full", "w") as full:
        result = subprocess.run(command("policies"), stdout=full, stderr=subprocess.PIPE, timeout=300)
    assert result.returncode == 1
    assert "No space left" in result.stderr.decode().strip().splitlines()[-1]
    assert "Traceback" not in result.stderr.decode()


def test_interrupt_in_a_callback_is_not_lost():
    """Python only prints an exception that is raised where C calls it, and goes on."""
    code = """
import ctypes, signal, sys, time, types
from dapq_edge import cli

signal.signal(signal.SIGINT, signal.default_int_handler)
callback = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
args = types.SimpleNamespace(run=lambda args: [callback(), time.sleep(600)])
cli.build_parser = lambda: types.SimpleNamespace(parse_args=lambda argv: args)
sys.exit(cli.main())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300)
    assert (result.returncode, result.stderr.decode().strip()) == (130, "dapq-edge: interrupted")


@pytest.mark.slow
def test_interrupted_eval_resumes(model, data, tmp_path):
    """Ctrl-C keeps the rows that are done, and the next run measures the others only."""
    out = tmp_path / "out.jsonl"
    args = ["eval", "needle", "-m", model, *data, "--lengths", 300, "-n", 4, "-t", 1, "--budgets", 64, "25%"]
    args += ["--offsets", 5, "--json", out]
    n_rows = len(NEEDLES) * 5 * 5 * 3
    with started(*args) as running:
        while running.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") >= 3):
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=300)
    assert (running.returncode, stderr.decode().strip()) == (130, "dapq-edge: interrupted")
    done = out.read_text()
    assert 3 <= done.count("\n") < n_rows
    assert done.endswith("\n")
    result = dapq_edge(*args)
    assert result.returncode == 0, result.stderr.decode()
    rows = out.read_text().splitlines()
    assert out.read_text().startswith(done)
    assert len(set(rows)) == len(rows) == n_rows
