"""Files that a path, a folder or a pattern stands for."""

import glob
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..counts import count
from ..errors import DapqError, UsageError
from .document import Document
from .extract import MAX_CHARACTERS
from .kinds import HEAD, is_binary
from .read import PLAIN, Reading, read_document
from .source import STDIN, printable

# of a folder
MAX_FILES = 1000

_PATTERN = re.compile(r"[*?[]")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass
class Found:
    """Files, and what is to be said about how they were found.

    Attributes:
        paths: Of the files, or "-" for stdin.
        in_folders: Those of `paths` that nobody named.
        notes: What was skipped.
    """

    paths: list[str] = field(default_factory=list)
    in_folders: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def read_documents(names: Iterable[str], reading: Reading = PLAIN) -> tuple[list[Document], list[str]]:
    """Read files, all of folders and all that match patterns; returns them, and what is to be said.

    A file of a folder that cannot be read is skipped. What is said may name parameters, as a `DapqError` does.

    Raises `DapqError` as `read_document` does, if there is nothing to read, or if there is too much; `UsageError` for
    what can be no file.
    """
    found = find(names)
    documents, notes, n_characters = [], found.notes, 0
    for path in found.paths:
        try:
            documents.append(read_document(path, reading))
        except DapqError as error:
            if path not in found.in_folders:
                raise
            notes.append(f"skipped: {error.args[0]}")
            continue
        notes += documents[-1].notes
        n_characters += len(documents[-1].text)
        if n_characters > MAX_CHARACTERS:
            raise DapqError(f"the documents have more than {MAX_CHARACTERS // 10**6} million characters together")
    if found.paths and not documents:
        raise DapqError(f"none of {count(len(found.paths), 'file')} can be read; the last one: {notes[-1]}")
    return documents, notes


def find(names: Iterable[str]) -> Found:
    """Return the files of paths, folders and patterns, each once. Raises as `read_documents` does."""
    found = Found()
    seen: set[str] = set()
    for name in names:
        for path in _files(name, found):
            place = path if path == STDIN else os.path.realpath(path)
            if place in seen and path not in found.in_folders:
                found.notes.append(f"{printable(path)} was given twice, and is read once")
            if place not in seen:
                seen.add(place)
                found.paths.append(path)
    return found


def _files(name: str, found: Found) -> list[str]:
    if name == STDIN:
        return [name]
    if _URL.match(name):
        raise UsageError(f"{printable(name)} is a URL, and nothing is fetched: give a file")
    if os.path.isdir(name):
        return _in_folder(name, found)
    if os.path.lexists(name) or not _PATTERN.search(name):
        return [name]
    matches = list(itertools.islice(glob.iglob(name, recursive=True), MAX_FILES + 1))
    if not matches:
        raise DapqError(f"no file matches {printable(name)}")
    if len(matches) > MAX_FILES:
        raise DapqError(f"{printable(name)} matches more than {MAX_FILES:,} files: give a narrower one")
    files = sorted(path for path in matches if not os.path.isdir(path))
    return _kept(files, name, found, folders=len(matches) - len(files))


def _in_folder(folder: str, found: Found) -> list[str]:
    n_hidden, paths = 0, []
    for path, is_hidden in _walk(Path(folder)):
        n_hidden += is_hidden
        if not is_hidden:
            paths.append(str(path))
        if len(paths) > MAX_FILES:
            raise DapqError(f"{printable(folder)} has more than {MAX_FILES:,} files: give a pattern")
    return _kept(paths, folder, found, hidden=n_hidden)


def _walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield files in order, and hidden files and folders, and whether they are hidden."""
    for place, folders, files in os.walk(folder):
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = sorted(set(folders) - set(hidden))
        for name in sorted(hidden + files):
            yield Path(place, name), name.startswith(".")


def _kept(paths: list[str], name: str, found: Found, **n_skipped: int) -> list[str]:
    """Return the files that can be documents, and note how many are not."""
    kept = [path for path in paths if not _is_binary(path)]
    n_skipped["binary"] = len(paths) - len(kept)
    skipped = [f"{n:,} {what.rstrip('s') if n == 1 else what}" for what, n in n_skipped.items() if n]
    found.in_folders |= set(kept)
    if skipped:
        found.notes.append(f"{printable(name)}: {count(len(kept), 'file')}; skipped: {', '.join(skipped)}")
    if not kept:
        raise DapqError(f"{printable(name)} has no file that can be read")
    return kept


def _is_binary(path: str) -> bool:
    """Return whether a file is no document; one that cannot be opened is reported when it is read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return True
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return is_binary(head)
