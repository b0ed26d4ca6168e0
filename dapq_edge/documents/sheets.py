"""A workbook."""

import csv
import io
import re
import zipfile
from typing import Any, BinaryIO

from python_calamine import CalamineWorkbook, SheetVisibleEnum

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
        result.notes.append(f"{n_empty:,} formulas have no value that was saved, and are not read")


def _add_sheet(result: Extract, name: str, sheet: Any) -> None:
    # the title of a sheet stands before its rows
    rows, first, title = [], 0, f"{name}\n"
    n_before = sheet.start[0] if sheet.start else 0
    for number, row in enumerate(sheet.iter_rows(), start=1 + n_before):
        if any(value != "" for value in row):
            first = first or number
            rows.append([_cell(value) for value in row])
        if rows and number - first + 1 >= N_ROWS:
            result.add(f"sheet {name}, rows {first}-{number}", title + _csv(rows))
            rows, first, title = [], 0, ""
    if rows:
        result.add(f"sheet {name}, rows {first}-{number}", title + _csv(rows))


def _cell(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().rstrip("\n")
