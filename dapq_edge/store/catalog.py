"""Catalog of a store: arrays in files, known by a key; the least recently used ones go first."""

import hashlib
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import DapqError

T = TypeVar("T")
Arrays = Mapping[str, npt.NDArray[Any]]

# the catalog beside the files; another version of its table gets another name
NAME = "catalog-1.sqlite"

TABLE = """CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, kind TEXT, note TEXT, n_bytes INTEGER, sha256 TEXT, arrays TEXT, used_ns INTEGER
)"""

# what is left of a process that was killed is removed after so many seconds
MAX_AGE = 3600


@dataclass(frozen=True)
class Entry:
    """One file of a store.

    Attributes:
        key: Its name.
        kind: What it holds.
        note: For people.
        n_bytes: Its size.
        sha256: Of its bytes.
        used_ns: When it was used last, nanoseconds since 1970.
    """

    key: str
    kind: str
    note: str
    n_bytes: int
    sha256: str
    used_ns: int


class Catalog:
    """Files of arrays in a folder that only its owner can read. Processes and threads may share it.

    Nothing here raises after it is open: what cannot be read is not there, what cannot be written is not kept, and
    `take_faults` says why.

    Args:
        folder: Made if it is not there.
        n_max: Bytes of all files, at most.

    Raises `DapqError` if the folder cannot be made, or its catalog cannot be opened.
    """

    def __init__(self, folder: Path, n_max: int) -> None:
        self.folder, self.n_max = folder, n_max
        self._faults: list[str] = []
        self._lock = threading.RLock()
        # a disk that is full stays so for a while
        self._can_write = True
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = self._open()
        except (OSError, sqlite3.Error) as error:
            raise DapqError(f"no store in {folder}: {_reason(error)}") from error
        self._remove_old_parts()

    def _open(self) -> sqlite3.Connection:
        path = self.folder / NAME
        try:
            return _connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self.note(f"{path} is damaged, and begun anew: what was stored is read again")
            for part in (path, *self.folder.glob(f"{NAME}-*"), *self.folder.glob("*.kv")):
                part.unlink(missing_ok=True)
            return _connect(path)

    def _remove_old_parts(self) -> None:
        """Remove files that no entry names, which a killed process left behind."""
        known = {self._path(entry.key, entry.sha256).name for entry in self.entries()}
        for path in [*self.folder.glob("*.tmp"), *self.folder.glob("*.kv")]:
            with suppress(OSError):
                if path.name not in known and time.time() - path.stat().st_mtime > MAX_AGE:
                    path.unlink()

    def take_faults(self) -> list[str]:
        """Return what went wrong since the last call, one line each."""
        with self._lock:
            faults, self._faults = self._faults, []
        return list(dict.fromkeys(faults))

    def note(self, fault: str) -> None:
        """Add a line to what went wrong."""
        with self._lock:
            self._faults.append(fault)

    def get(self, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays of an entry, mapped and read-only, or None if there is none, or if its file is damaged."""
        row = self._try(lambda: self._db.execute("SELECT sha256, arrays FROM entries WHERE key = ?", (key,)).fetchone())
        if row is None:
            return None
        sha256, manifest = row
        try:
            arrays = self._read(self._path(key, sha256), sha256, manifest)
        except FileNotFoundError:
            # removed by another process, or by hand
            self._remove(key, sha256)
            return None
        except (OSError, ValueError, TypeError) as error:
            self.note(f"{self._path(key, sha256)} is damaged, and read again: {_reason(error)}")
            self._remove(key, sha256)
            return None
        self._try(lambda: self._db.execute("UPDATE entries SET used_ns = ? WHERE key = ?", (time.time_ns(), key)))
        return arrays

    @staticmethod
    def _read(path: Path, sha256: str, manifest: str) -> dict[str, npt.NDArray[Any]]:
        data = np.memmap(path, dtype=np.uint8, mode="r")
        if _digest(manifest, data.data).hexdigest() != sha256:
            raise ValueError("its checksum is wrong")
        arrays, start = {}, 0
        for name, (dtype, shape) in json.loads(manifest).items():
            n_bytes = int(np.dtype(dtype).itemsize * np.prod(shape))
            arrays[name] = data[start : start + n_bytes].view(dtype).reshape(shape)
            start += n_bytes
        return arrays

    def put(self, key: str, kind: str, arrays: Arrays, note: str = "") -> bool:
        """Write an entry, and remove the least recently used ones that have no room beside it; returns whether it is
        kept.
        """
        n_bytes = sum(array.nbytes for array in arrays.values())
        if not self._can_write or n_bytes > self.n_max:
            return False
        manifest = json.dumps({name: (array.dtype.str, array.shape) for name, array in arrays.items()})
        self._make_room(n_bytes, key)
        try:
            sha256 = self._write(key, manifest, arrays)
        except OSError as error:
            self._can_write = False
            self.note(f"{self.folder} takes no more: {_reason(error)}")
            return False
        values = key, kind, note, n_bytes, sha256, manifest, time.time_ns()
        statement = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)"
        is_known = self._try(lambda: self._db.execute(statement, values)) is not None
        for path in self.folder.glob(f"{key}-*.kv"):
            if not is_known or path != self._path(key, sha256):
                _unlink(path)
        return is_known

    def _write(self, key: str, manifest: str, arrays: Arrays) -> str:
        """Write the file of an entry as a whole, and return the SHA-256 of it and of what it holds."""
        part = self.folder / f"{uuid.uuid4().hex}.tmp"
        digest = _digest(manifest)
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for array in arrays.values():
                    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                    digest.update(data)
                    file.write(data)
            os.replace(part, self._path(key, digest.hexdigest()))
        except BaseException:
            _unlink(part)
            raise
        return digest.hexdigest()

    def _make_room(self, n_bytes: int, key: str) -> None:
        entries = [entry for entry in self.entries() if entry.key != key]
        n_used = n_bytes + sum(entry.n_bytes for entry in entries)
        for entry in entries:
            if n_used <= self.n_max:
                return
            self.remove(entry)
            n_used -= entry.n_bytes

    def remove(self, entry: Entry) -> None:
        """Remove an entry, and its file."""
        self._remove(entry.key, entry.sha256)

    def _remove(self, key: str, sha256: str) -> None:
        statement = "DELETE FROM entries WHERE key = ? AND sha256 = ?"
        self._try(lambda: self._db.execute(statement, (key, sha256)))
        _unlink(self._path(key, sha256))

    def entries(self) -> list[Entry]:
        """Return all entries, the least recently used first."""
        statement = "SELECT key, kind, note, n_bytes, sha256, used_ns FROM entries ORDER BY used_ns"
        return [Entry(*row) for row in self._try(lambda: self._db.execute(statement).fetchall()) or []]

    def check(self) -> int:
        """Read all files; those that are damaged are removed. Returns their number."""
        return sum(self.get(entry.key) is None for entry in self.entries())

    def close(self) -> None:
        """Close the catalog."""
        self._db.close()

    def _path(self, key: str, sha256: str) -> Path:
        # two processes may write the same entry, not the same bytes
        return self.folder / f"{key}-{sha256[:16]}.kv"

    def _try(self, step: Callable[[], T]) -> T | None:
        """Return what a step gives, or None if the catalog cannot be read or written."""
        with self._lock:
            try:
                return step()
            except sqlite3.Error as error:
                self.note(f"{self.folder / NAME}: {_reason(error)}")
                return None


def _connect(path: Path) -> sqlite3.Connection:
    # only the owner reads it, also while it is made
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(TABLE)
    return db


def _digest(manifest: str, data: bytes | memoryview = b"") -> "hashlib._Hash":
    digest = hashlib.sha256(manifest.encode())
    digest.update(data)
    return digest


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
