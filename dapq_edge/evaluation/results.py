"""Results of an evaluation: JSON lines that a rerun resumes from."""

import json
import os
from pathlib import Path
from typing import Any

from ..errors import DapqError

# what was measured (model, prompt, policy, budget, ...), and what came out
Row = dict[str, Any]


class Results:
    """Rows in memory and, if there is a path, in a file to which each new row is appended at once.

    Raises `DapqError` if the file cannot be read or written, or if it has rows of something else. A last line that was
    cut off is dropped.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.rows: list[Row] = []
        self._path = path
        self._done: set[str] = set()
        if path and path.exists():
            for row in self._load(path):
                self._remember(row)

    def has(self, key: Row) -> bool:
        """Whether something was measured already."""
        return _text(key) in self._done

    def add(self, key: Row, result: Row) -> None:
        """Keep what came out of `key`. A row that cannot be written whole is taken back."""
        row = {"key": key, "result": result}
        if self._path:
            self._append(self._path, json.dumps(row, ensure_ascii=False) + "\n")
        self._remember(row)

    def _remember(self, row: Row) -> None:
        self._done.add(_text(row["key"]))
        self.rows.append({**row["key"], **row["result"]})

    @staticmethod
    def _append(path: Path, line: str) -> None:
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            if path.exists():
                os.truncate(path, size)
            raise DapqError(f"cannot write {path}: {error.strerror}; the rows before are kept") from error

    @staticmethod
    def _load(path: Path) -> list[Row]:
        try:
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                os.truncate(path, len(whole))
        except OSError as error:
            raise DapqError(f"cannot read {path}: {error.strerror}") from error
        rows = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                rows.append({"key": dict(row["key"]), "result": dict(row["result"])})
            except (ValueError, KeyError, TypeError) as error:
                raise DapqError(f"{path}, line {number}: not a result of dapq-edge eval") from error
        return rows


def _text(key: Row) -> str:
    return json.dumps(key, sort_keys=True)
