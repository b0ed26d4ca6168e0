"""Shows, removes and checks what is kept on disk."""

import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime

from rich.console import Console
from rich.table import Table

from ..counts import count
from ..errors import DapqError
from ..planning.ram import MIB
from ..store.catalog import Catalog, Entry
from . import printing
from .running import say, store_folder
from .store import ListOptions, Options


@dataclass(frozen=True)
class Group:
    """Files of one kind; an object of what `--json` prints. used_last: by the local clock, ISO 8601."""

    of: str
    kind: str
    files: int
    bytes: int
    used_last: str


def show(options: ListOptions) -> int:
    """Show what is kept, by model; returns the exit code."""
    with _opened(options) as catalog:
        entries = sorted(catalog.entries(), key=_group)
    groups = [_of(note, kind, list(some)) for (note, kind), some in itertools.groupby(entries, key=_group)]
    if options.json:
        print(json.dumps([asdict(group) for group in groups]))
    elif groups:
        printing.show(_table(f"{catalog.folder}: {_size(entries)}", groups))
    else:
        print(f"the store in {catalog.folder} is empty")
    return 0


def _of(note: str, kind: str, entries: list[Entry]) -> Group:
    last = datetime.fromtimestamp(max(entry.used_ns for entry in entries) / 1e9)
    size = sum(entry.n_bytes for entry in entries)
    return Group(note, kind, len(entries), size, last.isoformat(timespec="seconds"))


def _table(title: str, groups: list[Group]) -> Table:
    table = Table(title=title)
    for heading in ("of", "kept", "files", "size", "used last"):
        table.add_column(heading, justify="right" if heading in ("files", "size") else "left")
    for group in groups:
        used_last = group.used_last.replace("T", " ")
        table.add_row(group.of, f"{group.kind}s", f"{group.files:,}", _mib(group.bytes), used_last)
    return table


def remove(options: Options) -> int:
    """Remove all that is kept; returns the exit code."""
    with _opened(options) as catalog:
        entries = catalog.entries()
        n_removed = catalog.clear()
        print(f"removed {n_removed:,} of {count(len(entries), 'file')}, {_size(entries)}")
    return int(n_removed < len(entries))


def check(options: Options) -> int:
    """Read all that is kept; returns the exit code, 1 if some of it was damaged."""
    with _opened(options) as catalog:
        entries = catalog.entries()
        n_damaged = catalog.check()
        print(f"read {count(len(entries), 'file')}, {_size(entries)}; damaged, and removed: {n_damaged:,}")
    return int(n_damaged > 0)


@contextmanager
def _opened(options: Options) -> Iterator[Catalog]:
    folder = store_folder(options)
    if not folder.is_dir():
        raise DapqError(f"no store in {folder}")
    catalog = Catalog(folder, sys.maxsize)
    try:
        yield catalog
    finally:
        say(catalog.take_faults(), Console(stderr=True))
        catalog.close()


def _group(entry: Entry) -> tuple[str, str]:
    return entry.note, entry.kind


def _size(entries: list[Entry]) -> str:
    return _mib(sum(entry.n_bytes for entry in entries))


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / MIB:,.1f} MiB"
