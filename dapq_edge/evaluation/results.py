"""Results of an evaluation: JSON lines that a rerun resumes from."""

import json
import os
from pathlib import Path
from typing import Any

from ..errors import DapqError

# the fields of a key that say how a prompt was read and evicted; all others say which prompt it is
JOB_FIELDS = ("policy", "granularity", "bounded", "heads", "budget")

# what every row says about itself
FIELDS = {"task", "policy", "budget"}

# how a row begins, to know one that was cut off
START = b'{"key": {'


class Row(dict[str, Any]):
    """Key of a measurement (model, prompt, policy, budget, ...) and its result, in one dict.

    Attributes:
        prompt: Says which prompt it is: the rows of a prompt have the same, and no others.
    """

    def __init__(self, key: dict[str, Any], result: dict[str, Any]) -> None:
        super().__init__({**key, **result})
        self._key = key
        self.prompt = _text({name: value for name, value in key.items() if name not in JOB_FIELDS})

    def with_name(self, name: str) -> "Row":
        """Return the row with one more field, `name`."""
        return Row(self._key, {**self, "name": name})


class Results:
    """Rows in memory, each once, and, if there is a path, in a file to which each new row is appended at once.

    A last line that was cut off is replaced by the next row. Raises as `read_results` does, and `DapqError` if a row
    cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}
        # bytes of the file that are whole lines
        self._size = self.load(path) if path and path.exists() else 0

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def get(self, key: dict[str, Any]) -> Row | None:
        """Return what was measured of `key`, if it was."""
        return self._rows.get(_text(key))

    def load(self, path: Path) -> int:
        """Add the rows of a file; returns the bytes of its whole lines."""
        rows, size = read_results(path)
        for key, result in rows:
            self._remember(key, result)
        return size

    def add(self, key: dict[str, Any], result: dict[str, Any]) -> None:
        """Keep what came out of `key`. A row that cannot be written whole is taken back."""
        if self._path:
            self._append(self._path, json.dumps({"key": key, "result": result}, ensure_ascii=False).encode() + b"\n")
        self._remember(key, result)

    def _remember(self, key: dict[str, Any], result: dict[str, Any]) -> None:
        self._rows.setdefault(_text(key), Row(key, result))

    def _append(self, path: Path, line: bytes) -> None:
        try:
            with path.open("ab") as file:
                file.truncate(self._size)
                file.write(line)
        except OSError as error:
            if path.exists():
                os.truncate(path, self._size)
            raise DapqError(f"cannot write {path}: {error.strerror}; the rows before are kept") from error
        self._size += len(line)


def read_results(path: Path) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], int]:
    """Return key and result of each row of a file, and the bytes of its whole lines. Raises `DapqError`.

    A last line that was cut off is left out.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DapqError(f"cannot read {path}: {error.strerror}") from error
    *lines, rest = data.split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            key, result = dict(row["key"]), dict(row["result"])
            if not key.keys() >= FIELDS:
                raise ValueError("fields are missing")
            rows.append((key, result))
        except (ValueError, KeyError, TypeError) as error:
            raise DapqError(f"{path}, line {number}: not a result of dapq-edge eval") from error
    if not rest.startswith(START) and not START.startswith(rest):
        raise DapqError(f"{path}, line {len(lines) + 1}: not a result of dapq-edge eval")
    return rows, len(data) - len(rest)


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
