"""Measurements of many cases, which a rerun resumes."""

import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

Case = TypeVar("Case")


def measured(cases: Iterable[Case], measure: Callable[[Case], Any], path: Path | None) -> list[Any]:
    """Return what `measure` gives for each case; those whose rows the file has, JSON lines, are not measured again."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []
    for case in islice(cases, len(rows), None):
        rows.append(measure(case))
        print(f"{len(rows)} measured", flush=True)
        if path:
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    return rows
