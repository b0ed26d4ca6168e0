"""Data files: texts, and JSON lines whose errors name the line."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DapqError

T = TypeVar("T")


def read_text(path: Path) -> str:
    """Raises `DapqError` if the file cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DapqError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DapqError(f"cannot read {path}: it is no text in UTF-8") from error


def unique(values: Iterable[T]) -> list[T]:
    """Each value once, in the order of the first ones."""
    return list(dict.fromkeys(values))


def digest(*texts: str) -> str:
    """Tells texts apart, so that results of other data are not taken for those of these."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "replace")).hexdigest()[:12]


def read_jsonl(path: Path, parse: Callable[[dict[str, Any]], T], what: str) -> Iterator[tuple[int, T]]:
    """Line numbers from 1, and what `parse` makes of the object of each line.

    Raises `DapqError` with the number of a line that is not `what`: no JSON object, or `parse` raises a ValueError,
    KeyError or TypeError.
    """
    # a text in JSON may hold line separators of Unicode
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise TypeError("no JSON object")
            yield number, parse(row)
        except KeyError as error:
            raise DapqError(f"{path}, line {number}: not {what}: {error} is missing") from error
        except (ValueError, TypeError) as error:
            raise DapqError(f"{path}, line {number}: not {what}: {error}") from error
