"""The command line in this process, or as a user runs it: in one of its own."""

import contextlib
import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO
from unittest import mock

from llama_cpp.llama_cpp import _lib

from dapq_edge.cli import main

TEXT = "The quick brown fox jumps over the lazy dog. " * 6

# a shell that runs the tests in the background has its children ignore Ctrl-C
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from dapq_edge.cli import main
"""


def command(*args: object, before: str = "") -> list[str]:
    """A process of the command line. before: Python that it runs before that."""
    return [sys.executable, "-c", f"{START}\n{before}\nsys.exit(main())", *map(str, args)]


def process(*args: object, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess:
    """The command line in a process of its own: for what ends a process, or needs its pipes and its exit code."""
    return subprocess.run(command(*args), input=stdin, capture_output=True, env={**os.environ, **env}, timeout=300)


@contextlib.contextmanager
def started(*args: object, before: str = "") -> Iterator[subprocess.Popen]:
    """A process of the command line that is killed in the end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(*args, before=before), **pipes) as running:
        try:
            yield running
        finally:
            running.kill()


def dapq_edge(*args: object, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess:
    """What `process` gives, of `main` in this process."""
    argv = [str(arg) for arg in args]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        streams[0].write(stdin)
        streams[0].seek(0)
        stack.enter_context(mock.patch.dict(os.environ, env))
        # one thread: two that wait for one another take minutes beside another process
        stack.enter_context(mock.patch("psutil.cpu_count", return_value=1))
        with _redirected(*streams), _restored():
            try:
                code = main(argv)
            except SystemExit as end:
                # as argparse ends
                code = end.code or 0
            sys.stdout.flush()
        stdout, stderr = (os.pread(stream.fileno(), os.fstat(stream.fileno()).st_size, 0) for stream in streams[1:])
    return subprocess.CompletedProcess(argv, code, stdout, stderr)


@contextlib.contextmanager
def _redirected(*streams: BinaryIO) -> Iterator[None]:
    """stdin, stdout and stderr of Python and of C."""
    names = "stdin", "stdout", "stderr"
    sys.stdout.flush()
    before = [(os.dup(fd), getattr(sys, name)) for fd, name in enumerate(names)]
    try:
        for fd, (name, stream) in enumerate(zip(names, streams, strict=True)):
            os.dup2(stream.fileno(), fd)
            errors = "backslashreplace" if name == "stderr" else "strict"
            file = open(fd, "w" if fd else "r", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
            setattr(sys, name, file)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        for fd, (copy, stream) in enumerate(before):
            getattr(sys, names[fd]).close()
            setattr(sys, names[fd], stream)
            os.dup2(copy, fd)
            os.close(copy)


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """What `main` sets for the rest of a process, it sets for the call."""
    hook = sys.unraisablehook
    try:
        yield
    finally:
        sys.unraisablehook = hook
        _lib.ggml_set_abort_callback(None)


def assert_one_line(result: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """One clear line on stderr, nothing on stdout."""
    error = result.stderr.decode()
    assert result.returncode == code, error
    assert result.stdout == b""
    assert error.startswith("dapq-edge: "), error
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error


def assert_usage(result: subprocess.CompletedProcess, *words: str) -> None:
    """One line, and where to read more."""
    assert_one_line(result, 2, *words, "see dapq-edge", "--help")


def ask(model, doc, *args, is_json=True, **kwargs):
    options = ["--json"] if is_json else []
    return dapq_edge("ask", "-m", model, "--doc", doc, "What jumps?", "-n", 4, *options, *args, **kwargs)
