"""Shows, removes and checks what is kept on disk."""

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console
from rich.table import Table

from ..errors import DapqError
from ..planning.ram import MIB
from ..store.catalog import Catalog, Entry
from .running import say, store_folder
from .store import Options


def show(options: Options) -> int:
    """Show what is kept, by model; returns the exit code."""
    with _opened(options) as catalog:
        entries = sorted(catalog.entries(), key=_group)
        table = Table(title=f"{catalog.folder}: {_size(entries)}")
        for heading in ("of", "kept", "files", "size", "used last"):
            table.add_column(heading, justify="right" if heading in ("files", "size") else "left")
        for (note, kind), some in itertools.groupby(entries, key=_group):
            group = list(some)
            last = datetime.fromtimestamp(max(entry.used_ns for entry in group) / 1e9)
            table.add_row(note, f"{kind}s", f"{len(group):,}", _size(group), f"{last:%Y-%m-%d %H:%M}")
        Console().print(table)
    return 0


def remove(options: Options) -> int:
    """Remove all that is kept; returns the exit code."""
    with _opened(options) as catalog:
        entries = catalog.entries()
        n_removed = catalog.clear()
        print(f"removed {n_removed:,} of {len(entries):,} files, {_size(entries)}")
    return int(n_removed < len(entries))


def check(options: Options) -> int:
    """Read all that is kept; returns the exit code, 1 if some of it was damaged."""
    with _opened(options) as catalog:
        entries = catalog.entries()
        n_damaged = catalog.check()
        print(f"read {len(entries):,} files, {_size(entries)}: {n_damaged:,} were damaged, and are removed")
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
    return f"{sum(entry.n_bytes for entry in entries) / MIB:,.1f} MiB"
