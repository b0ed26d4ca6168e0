"""A process of its own that parses one file, so that nothing in the file can harm this one.

It is given a `Task` on stdin and writes an answer to stdout, both as JSON.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from importlib import import_module

from ..errors import DapqError
from .extract import Extract

# OCR takes that many at once
N_THREADS = 4


@dataclass(frozen=True)
class Task:
    """A file, and what is to be done with it.

    Attributes:
        module: Of this package, whose `extract` does it.
        fd: The file.
        kind: What people call it.
        memory: Bytes of address space.
        seconds: That it takes at most, by the clock.
        charset: What the sender of the file says.
        password: Of the file.
        page: The page that is read by OCR.
    """

    module: str
    fd: int
    kind: str
    memory: int
    seconds: int
    charset: str = ""
    password: str = ""
    page: int = 0


def main() -> None:
    """Do what stdin says, and write what came of it."""
    task = Task(**json.load(sys.stdin.buffer))
    # what libraries print is no answer
    answer, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    _limit(task.memory, N_THREADS * task.seconds)
    with open(answer, "wb") as stream:
        stream.write(json.dumps(_result(task), ensure_ascii=False).encode("utf-8", "replace"))


def _result(task: Task) -> dict[str, object]:
    extract = Extract()
    try:
        with open(task.fd, "rb") as file:
            file.seek(0)
            import_module(f".{task.module}", __package__).extract(file, task, extract)
    except DapqError as error:
        reason = str(error.args[0])
    except ImportError as error:
        reason = f"needs {error.name}: run EXTRAS=documents ./scripts/setup.sh"
    except MemoryError:
        reason = f"needs more than {task.memory >> 20} MiB to be read"
    except RecursionError:
        reason = "is nested too deeply"
    except Exception as error:  # libraries let the errors of a broken file through as they come
        reason = f"is {extract.kind or task.kind} that cannot be read: {_line(error)}"
    else:
        return asdict(extract)
    return {"error": reason}


def _line(error: Exception) -> str:
    # what a parser did not expect says nothing to people
    is_bug = isinstance(error, (AttributeError, TypeError, LookupError, AssertionError))
    return " ".join(str(error).split())[:200] if str(error) and not is_bug else "it is damaged"


def _limit(n_bytes: int, seconds: int) -> None:
    """Bound memory and time of this process, where the system can."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # one whose parent was killed goes on for no longer
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
    except (ValueError, OSError):
        # macOS knows the limit, and refuses it
        return
