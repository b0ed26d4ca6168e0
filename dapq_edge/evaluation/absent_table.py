"""The table of what is said to be absent: how well relevance and words tell what is there from what is not."""

from collections.abc import Sequence

import numpy as np

from .estimates import auroc, share_of
from .results import Row

HEADINGS = ["fact", "prompts", "relevance", "AUROC", "words", "AUROC", "said to be absent"]

# how the rows are named, by what stands in place of the fact
NAMES = {"there": "there", "absent": "not there", "another": "another like it"}


def absent_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return headings, and a line for what is there and for each way in which it is not.

    relevance, words: of the best chunk, median and the range of the middle 90%.
    """
    of_fact = {fact: [row for row in rows if row["fact"] == fact] for fact in NAMES}
    there = of_fact["there"]
    lines = []
    for fact, group in of_fact.items():
        if group:
            told = [_told(there, group, name) for name in ("relevance", "coverage")]
            said = share_of([row["is_said"] for row in group]).percent
            lines.append([NAMES[fact], str(len(group)), *told[0], *told[1], said])
    return HEADINGS, lines


def _told(there: Sequence[Row], group: Sequence[Row], name: str) -> tuple[str, str]:
    """Return a number of some rows, and its AUROC against those with the fact."""
    values = [row[name] for row in group]
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
    is_other = there and group[0]["fact"] != "there"
    area = f"{auroc([row[name] for row in there], values):.3f}" if is_other else ""
    return f"{median:.2f} ({low:.2f} to {high:.2f})", area
