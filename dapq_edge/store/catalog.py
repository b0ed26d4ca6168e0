"""Catalog of a store: arrays in files, known by a key; the least recently used ones go first."""

import json
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from ..errors import DapqError
from .array_files import FILE, PART, Arrays, read, read_one, unlink, write

T = TypeVar("T")

# the catalog beside the files; another version of its table gets another name
NAME = "catalog-1.sqlite"

# the types are checked when the catalog is opened, as a byte that changed on the disk may be one of a type
TABLE = """CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY NOT NULL CHECK (typeof(key) = 'text'),
    kind TEXT NOT NULL CHECK (typeof(kind) = 'text'),
    note TEXT NOT NULL CHECK (typeof(note) = 'text'),
    n_bytes INTEGER NOT NULL CHECK (typeof(n_bytes) = 'integer' AND n_bytes >= 0),
    sha256 TEXT NOT NULL CHECK (typeof(sha256) = 'text'),
    arrays TEXT NOT NULL CHECK (typeof(arrays) = 'text'),
    used_ns INTEGER NOT NULL CHECK (typeof(used_ns) = 'integer')
)"""

# what is left of a process that was killed is removed after so many seconds
MAX_AGE = 3600

# after a write that failed, none is tried for so many seconds
PAUSE = 60

# bytes that are left free on the disk
RESERVE = 256 * 2**20


@dataclass(frozen=True)
class Entry:
    """One file of a store.

    Attributes:
        key: Its name.
        kind: What it holds.
        note: For people.
        n_bytes: Its size.
        sha256: Of its bytes, and of what they are.
        used_ns: When it was used last, nanoseconds since 1970.
    """

    key: str
    kind: str
    note: str
    n_bytes: int
    sha256: str
    used_ns: int


class Catalog:
    """Files of arrays in a folder, that only their owner can read. Processes and threads may share it.

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
        self._paused_until = 0.0
        self._began_ns = time.time_ns()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = self._open()
        except (OSError, sqlite3.Error) as error:
            raise DapqError(f"no store in {folder}: {_reason(error)}") from error
        self._remove_old_parts()
        self._make_room(0)

    def _open(self) -> sqlite3.Connection:
        path = self.folder / NAME
        try:
            db = _connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self.note("the catalog of the store is damaged, and begun anew: everything is read again")
            for part in (path, *self.folder.glob(f"{NAME}-*"), *self._files(FILE)):
                part.unlink(missing_ok=True)
            db = _connect(path)
        self._inode = _inode(path)
        return db

    def _files(self, *patterns: re.Pattern[str]) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if any(p.fullmatch(path.name) for p in patterns)]
        except OSError:
            return []

    def _remove_old_parts(self) -> None:
        """Remove files that no entry names, which a killed process left behind."""
        entries = self._entries()
        if entries is None:
            return
        known = {self._path(entry.key, entry.sha256) for entry in entries}
        for path in self._files(PART, FILE):
            with suppress(OSError):
                if path not in known and time.time() - path.stat().st_mtime > MAX_AGE:
                    path.unlink()

    def note(self, fault: str) -> None:
        """Add a line to what went wrong, unless it is there."""
        with self._lock:
            if fault not in self._faults:
                self._faults.append(fault)

    def take_faults(self) -> list[str]:
        """Return what went wrong since the last call, one line each."""
        with self._lock:
            faults, self._faults = self._faults, []
        return faults

    def begin(self) -> None:
        """Say that a reading begins: what is used from now on is not removed to make room for the rest of it.

        A catalog that was removed, or begun anew by another process, is opened again.
        """
        self._began_ns = time.time_ns()
        if _inode(self.folder / NAME) != self._inode:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                db = self._open()
            except (OSError, sqlite3.Error) as error:
                self.note(f"the catalog of the store is gone: {_reason(error)}")
                return
            with self._lock:
                self._db.close()
                self._db = db

    def has(self, key: str) -> bool:
        """Return whether there is an entry; its file is not looked at."""
        statement = "UPDATE entries SET used_ns = ? WHERE key = ?"
        return bool(self._try(lambda: self._db.execute(statement, (time.time_ns(), key)).rowcount))

    def get(self, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays of an entry, or None if there is none, or if its file is damaged."""
        row = self._try(lambda: self._db.execute("SELECT sha256, arrays FROM entries WHERE key = ?", (key,)).fetchone())
        if row is None:
            return None
        sha256, manifest = row
        try:
            arrays = read(self._path(key, sha256), sha256, manifest)
        except FileNotFoundError:
            # removed by another process, or by hand
            self._forget(key, sha256)
            return None
        except ValueError as error:
            self.note(f"a file of the store is damaged, and read again: {error}")
            self._remove(key, sha256)
            return None
        except (OSError, MemoryError) as error:
            self.note(f"a file of the store cannot be read: {_reason(error)}")
            return None
        self._try(lambda: self._db.execute("UPDATE entries SET used_ns = ? WHERE key = ?", (time.time_ns(), key)))
        return arrays

    def peek(self, entry: Entry, name: str) -> npt.NDArray[Any] | None:
        """Return one array of an entry, or None if it cannot be read. It may be damaged: `get` looks at that."""
        row = self._try(lambda: self._db.execute("SELECT arrays FROM entries WHERE key = ?", (entry.key,)).fetchone())
        return read_one(self._path(entry.key, entry.sha256), row[0], name) if row else None

    def put(self, key: str, kind: str, arrays: Arrays, note: str = "") -> bool:
        """Write an entry, and remove the least recently used ones that have no room beside it.

        Args:
            key: 64 hexadecimal digits.
            kind: What it holds.
            arrays: Of any types and shapes.
            note: For people.

        Returns whether it is kept.
        """
        n_bytes = sum(array.nbytes for array in arrays.values())
        if time.monotonic() < self._paused_until or not self._make_room(n_bytes, key):
            return False
        manifest = json.dumps({name: (array.dtype.str, array.shape) for name, array in arrays.items()})
        try:
            sha256 = write(self.folder, lambda sha256: self._path(key, sha256), manifest, arrays)
        except (OSError, MemoryError) as error:
            self.note(f"the store takes no more: {_reason(error)}")
            self._pause()
            return False
        # the name of a file may be no text
        note = note.encode("utf-8", "replace").decode()
        before = self._replace(Entry(key, kind, note, n_bytes, sha256, time.time_ns()), manifest)
        if before is None:
            unlink(self._path(key, sha256))
            self._pause()
            return False
        if before and before != sha256:
            unlink(self._path(key, before))
        return True

    def _pause(self) -> None:
        # a disk that is full stays so for a while
        self._paused_until = time.monotonic() + PAUSE

    def _replace(self, entry: Entry, manifest: str) -> str | None:
        """Put the row of an entry; returns the SHA-256 of the one before, "" if there was none, None if it failed."""

        def step() -> str:
            with _transaction(self._db):
                before = self._db.execute("SELECT sha256 FROM entries WHERE key = ?", (entry.key,)).fetchone()
                values = entry.key, entry.kind, entry.note, entry.n_bytes, entry.sha256, manifest, entry.used_ns
                self._db.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            return before[0] if before else ""

        return self._try(step)

    def _make_room(self, n_bytes: int, key: str = "") -> bool:
        """Remove the least recently used entries until `n_bytes` more have room; returns whether they do."""
        entries = self._entries()
        if entries is None:
            return False
        n_used = sum(entry.n_bytes for entry in entries)
        n_max = self.n_max
        with suppress(OSError):
            n_max = min(n_max, n_used + shutil.disk_usage(self.folder).free - RESERVE)
        for entry in entries:
            if n_used + n_bytes <= n_max:
                return True
            is_free = entry.key != key and (n_bytes == 0 or entry.used_ns < self._began_ns)
            if is_free and self.remove(entry):
                n_used -= entry.n_bytes
        if n_used + n_bytes <= n_max:
            return True
        self.note("the store has no room for all that was read: raise `store_size`, or free some of the disk")
        return False

    def remove(self, entry: Entry) -> bool:
        """Remove an entry, and its file; returns whether the file is gone."""
        return self._remove(entry.key, entry.sha256)

    def _remove(self, key: str, sha256: str) -> bool:
        if not unlink(self._path(key, sha256)):
            self.note("a file of the store cannot be removed")
            return False
        self._forget(key, sha256)
        return True

    def _forget(self, key: str, sha256: str) -> None:
        statement = "DELETE FROM entries WHERE key = ? AND sha256 = ?"
        self._try(lambda: self._db.execute(statement, (key, sha256)))

    def entries(self, start: str = "") -> list[Entry]:
        """Return the entries whose keys begin with `start`, the least recently used first."""
        return self._entries(start) or []

    def _entries(self, start: str = "") -> list[Entry] | None:
        """Return entries, or None if the catalog cannot be read."""
        statement = (
            "SELECT key, kind, note, n_bytes, sha256, used_ns FROM entries WHERE key >= ? AND key < ? ORDER BY used_ns"
        )
        # behind all hexadecimal digits
        rows = self._try(lambda: self._db.execute(statement, (start, start + "g")).fetchall())
        return None if rows is None else [Entry(*row) for row in rows]

    def check(self) -> int:
        """Read all files; those that are damaged are removed. Returns their number."""
        return sum(self.get(entry.key) is None for entry in self.entries())

    def clear(self) -> int:
        """Remove all entries, and what other processes left; returns the number of entries that are gone."""
        n_removed = sum([self.remove(entry) for entry in self.entries()])
        for path in self._files(PART, FILE):
            unlink(path)
        return n_removed

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
                self.note(f"the catalog of the store fails: {_reason(error)}")
                return None


def _connect(path: Path) -> sqlite3.Connection:
    # only the owner reads it, also while it is made
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(TABLE)
        if db.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
            raise sqlite3.DatabaseError("it is damaged")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def _transaction(db: sqlite3.Connection) -> Any:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _inode(path: Path) -> int | None:
    """Return which file a path is, None if it is none."""
    with suppress(OSError):
        return path.stat().st_ino
    return None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
