"""A workbook."""

import csv
import io
import re
import zipfile
from typing import Any, BinaryIO

from python_calamine import CalamineWorkbook, SheetVisibleEnum

from ..counts import count
from .child import Task
from .extract import Extract, listed

# rows of a part
N_ROWS = 50

# a formula that was never calculated
_FORMULA = re.compile(rb"<f(?:\s[^>]*)?(?:/>|>[^<]*</f>)(?:<v\s*/>|<v></v>)?</c>")


def extract(file: BinaryIO, task: Task, result: Extract) -> None:
    """Read the sheets as CSV, in parts of some rows."""
    hidden = []
    with CalamineWorkbook.from_filelike(file) as book:
        for about in book.sheets_metadata:
            if about.visible != SheetVisibleEnum.Visible:
                hidden.append(about.name)
            _add_sheet(result, about.name, book.get_sheet_by_name(about.name))
    if hidden:
        result.notes.append(f"hidden sheets are read, too ({listed(hidden)})")
    with zipfile.ZipFile(file) as archive:
        sheets = [name for name in archive.namelist() if re.fullmatch(r"xl/worksheets/[^/]+\.xml", name)]
        n_empty = sum(len(_FORMULA.findall(archive.read(name))) for name in sheets)
    if n_empty:
        result.notes.append(f"{count(n_empty, 'formula')} without a value that was saved: not read")


def _add_sheet(result: Extract, name: str, sheet: Any) -> None:
    rows: list[tuple[int, list[str]]] = []
    # the title of a sheet stands before its rows
    title = f"{name}\n"
    for number, row in enumerate(sheet.iter_rows(), start=1):
        if rows and number - rows[0][0] >= N_ROWS:
            _add_rows(result, name, title, rows)
            rows, title = [], ""
        if any(value != "" for value in row):
            rows.append((number, [_cell(value) for value in row]))
    if rows:
        _add_rows(result, name, title, rows)


def _add_rows(result: Extract, name: str, title: str, rows: list[tuple[int, list[str]]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(row for _, row in rows)
    result.add(f"sheet {name}, rows {rows[0][0]}-{rows[-1][0]}", title + text.getvalue().rstrip("\n"))


def _cell(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
