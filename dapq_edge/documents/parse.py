"""Parsing in a child process, with a limit of time and memory."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

from ..errors import DapqError
from .child import Task
from .extract import Extract
from .kinds import Kind
from .source import MIB, Source

MODULES = {Kind.HTML: "web", Kind.PDF: "pdf", Kind.OFFICE: "packed", Kind.MAIL: "mail"}

# of a file up to SMALL bytes; each MiB beyond gets a second more
SECONDS = 9
SMALL = 8 * MIB

# of address space
MEMORY = 470 * MIB

# a page of OCR
OCR_SECONDS = 60
OCR_MEMORY = 1024 * MIB

# a file in the working folder is no module
START = "import sys; sys.path[:] = {path!r}; from dapq_edge.documents.child import main; main()"


def parse(source: Source, kind: Kind, password: str = "") -> Extract:
    """Return what is in a file. Raises `DapqError` if it is damaged, or takes too much time or memory."""
    seconds = SECONDS + max(0, source.n_bytes - SMALL) // MIB
    return _run(Task(MODULES[kind], source.file.fileno(), kind.value, MEMORY, seconds, source.charset, password))


def parse_picture(source: Source, page: int, password: str = "") -> str:
    """Return the text of a page that is a picture; `page` counts from 0. Raises as `parse` does."""
    task = Task("ocr", source.file.fileno(), Kind.PDF.value, OCR_MEMORY, OCR_SECONDS, password=password, page=page)
    return "".join(text for _, text in _run(task).parts)


def _run(task: Task) -> Extract:
    start = START.format(path=[path for path in sys.path if path])
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", start],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(task.fd,),
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(json.dumps(asdict(task)).encode(), timeout=task.seconds)
    except subprocess.TimeoutExpired:
        raise DapqError(f"takes more than {task.seconds} s to read") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode or not output:
        raise DapqError(f"is {task.kind} that cannot be read: {_end(process.returncode)}")
    result = json.loads(output)
    if "error" in result:
        raise DapqError(result["error"])
    return Extract(**result)


def _end(code: int) -> str:
    reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its reader ended ({reason}), as it is damaged, or needs more than {MEMORY // MIB} MiB"
