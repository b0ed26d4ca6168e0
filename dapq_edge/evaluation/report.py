"""A page of all results in a folder: tables and pictures."""

import re
from pathlib import Path

from ..errors import DapqError
from .plots import plot_results
from .results import Results
from .summary import SETTING, group_by, summaries, title_of

PAGE = "report.md"


def write_report(folder: Path) -> Path:
    """Write `PAGE` and its PNG files into `folder`, from the JSONL files that are there; returns the page.

    Raises `DapqError` if there are none, if one is no result of an evaluation, or if a file cannot be written.
    """
    results = Results()
    for path in sorted(folder.glob("*.jsonl")):
        results.load(path)
    rows = results.rows
    if not rows:
        raise DapqError(f"no results (*.jsonl) in {folder}: make some with the `json` of dapq-edge eval")
    lines = ["# Results of dapq-edge eval", ""]
    # prompts of several lengths share a picture
    for group in group_by(rows, [field for field in SETTING if field != "length"]).values():
        title = title_of({**group[0], "length": None})
        picture = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ".png"
        plot_results(group, folder / picture)
        lines += [f"## {title}", "", f"![{title}]({picture})", ""]
        for summary in summaries(group):
            lines += [f"**{summary.title}**", "", summary.markdown, ""]
    lines += ["Scores have 95% intervals (Wilson); of KL, the mean and its 95% interval.", ""]
    page = folder / PAGE
    try:
        page.write_text("\n".join(lines), encoding="utf-8")
    except OSError as error:
        raise DapqError(f"cannot write {page}: {error.strerror}") from error
    return page
