"""Files: written whole or not at all, and read with errors that name the line."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from .errors import DapqError

T = TypeVar("T")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file; one that is there stays whole until the new one is, whatever happens. Raises `DapqError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(file.name)
                raise
    except OSError as error:
        raise DapqError(f"cannot write {path}: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """Return the text of a file. Raises `DapqError` if the file cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DapqError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DapqError(f"cannot read {path}: it is no text in UTF-8") from error


def read_jsonl(path: Path, parse: Callable[[dict[str, Any]], T], what: str) -> Iterator[tuple[int, T]]:
    """Yield line numbers from 1, and what `parse` makes of the object of each line.

    Raises `DapqError` with the number of a line that is not `what`: no JSON object, or `parse` raises a ValueError,
    KeyError or TypeError; and if there is no other line.
    """
    n_rows = 0
    # a text in JSON may hold line separators of Unicode
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise TypeError("no JSON object")
            n_rows += 1
            yield number, parse(row)
        except KeyError as error:
            raise DapqError(f"{path}, line {number}: not {what}: {error} is missing") from error
        except (ValueError, TypeError) as error:
            raise DapqError(f"{path}, line {number}: not {what}: {error}") from error
    if not n_rows:
        raise DapqError(f"{path}: no line is {what}")
