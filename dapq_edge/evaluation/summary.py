"""Summaries of results: means over prompts, each with a 95% interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from ..counts import count
from .absent_table import absent_table
from .estimates import Estimate, mean, share_of, wilson
from .results import JOB_FIELDS, Row

# what the rows of one table have in common
SETTING = (
    "task",
    "model",
    "model_hash",
    "type_k",
    "type_v",
    "length",
    "facts",
    "prefix",
    "paraphrased",
    "pages",
    "asked",
    "mode",
    "reread",
    "store",
)


def group_by(rows: Sequence[Row], fields: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Group rows by the values of `fields`, in the order of their first rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(field) for field in fields), []).append(row)
    return groups


def of_full(rows: Sequence[Row], group: Sequence[Row]) -> Estimate | None:
    """Return the score of a group as a share of what the full cache scores in `rows`, on the prompts that it answers.

    The interval is Wilson's, which holds for shares near 1, too. None if the full cache answers nothing.
    """
    full = {row.prompt: row["score"] for row in rows if row["policy"] == "full"}
    pairs = [(row["score"], full.get(row.prompt, 0)) for row in group]
    shares = [min(1.0, score / of) for score, of in pairs if of]
    return wilson(float(np.mean(shares)), len(shares)) if shares else None


@dataclass(frozen=True)
class Summary:
    """A table of text: `rows` of as many cells as there are `headings`, the first two of them names."""

    title: str
    headings: list[str]
    rows: list[list[str]]

    @property
    def table(self) -> Table:
        table = Table(title=self.title)
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if i < 2 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    @property
    def markdown(self) -> str:
        lines = [self.headings, ["---", "---", *["---:"] * (len(self.headings) - 2)], *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """Return one table for each model, task, length, and way to ask."""
    return [_summary(title_of(group[0]), group) for group in group_by(rows, SETTING).values()]


def title_of(row: Mapping[str, Any]) -> str:
    """Say how the prompt of a row was made."""
    types = {row.get("type_k", "f16"), row.get("type_v", "f16")}
    notes = [
        str(row.get("model", "")),
        f"K/V {row['type_k']}/{row['type_v']}" if types != {"f16"} else "",
        count(row["length"], "token") if row.get("length") else "",
        f"{row['facts']} facts" if row.get("facts", 1) > 1 else "",
        "without the first words of the answer" if row.get("prefix") is False else "",
        "paraphrased" if row.get("paraphrased") else "",
        count(row["pages"], "page") if row.get("pages") else "",
        f"asked in {row['asked']} words" if row.get("asked") else "",
        str(row.get("mode", "")),
        "read again for each question" if row.get("reread") else "",
        "with a store" if row.get("store") else "",
    ]
    return ", ".join([str(row["task"]), *filter(None, notes)])


def name_of(row: Row) -> str:
    """Name the policy of a row, and how the prompt was read."""
    return (
        str(row["policy"])
        + (", bounded" if row.get("bounded") else "")
        + (", head profile" if row.get("heads") else "")
    )


def _summary(title: str, rows: Sequence[Row]) -> Summary:
    if rows[0]["task"] == "absent":
        return Summary(title, *absent_table(rows))
    columns = [name for name in METRICS if any(name in row for row in rows)]
    headings = ["policy", "keeps", "budget", "prompts", *(METRICS[name] for name in columns)]
    if "score" in columns:
        headings.append("of the full cache")
    lines = []
    for (_, granularity, _, _, budget), group in group_by(rows, JOB_FIELDS).items():
        cells = [_metric(name, [row[name] for row in group if name in row]) for name in columns]
        if "score" in columns:
            of_all = of_full(rows, group)
            cells.append(of_all.percent if of_all else "")
        lines.append([name_of(group[0]), granularity, budget, str(len(group)), *cells])
    # ranks have no budget
    used = [i for i in range(len(headings)) if headings[i] not in ("keeps", "budget") or any(line[i] for line in lines)]
    return Summary(title, [headings[i] for i in used], [[line[i] for i in used] for line in lines])


METRICS = {
    "score": "score",
    "later": "later questions",
    "first": "chunk first",
    "among_four": "among four",
    "rank": "mean rank",
    "kl": "KL, nats",
    "top1": "top-1",
    "oracle_recall": "oracle recall",
    "attention_kept": "attention kept",
    "rouge_l": "ROUGE-L",
    "ttft_s": "s to first token",
    "is_right": "right answers",
    "right_page": "of these: page",
    "right_quote": "sentence",
    "n_cited": "sources of it",
    "bm25_page": "BM25's page",
    "n_invented": "invented",
    "citing": "citing, of the time",
}

# what is true or false of a prompt
SHARES = "first", "among_four", "is_right", "right_page", "right_quote", "bm25_page"


def _metric(name: str, values: Sequence[float]) -> str:
    if not values:
        return ""
    if name in SHARES:
        return share_of(values).percent
    if name == "n_invented":
        return f"{sum(values)}"
    if name == "citing":
        return f"{np.median(values):.1%}"
    if name in ("rank", "n_cited"):
        return f"{np.mean(values):.2f}"
    if name in ("score", "later", "top1", "oracle_recall", "attention_kept"):
        return f"{np.mean(values):.0%}"
    if name == "kl":
        estimate = mean(values)
        return f"{estimate.mean:.3f} ± {estimate.high - estimate.mean:.3f}"
    return f"{np.median(values):.1f}" if name == "ttft_s" else f"{np.mean(values):.3f}"
