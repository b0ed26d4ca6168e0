"""Pictures of citations, and of what tells what is there from what is not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..render.pictures import save
from .absent_table import NAMES
from .estimates import share_of
from .results import Row
from .summary import METRICS, SHARES, group_by, name_of, title_of

COLORS = {"there": "#1f6f8b", "absent": "#c8553d", "another": "#e0a030"}


def plot_citations(rows: Sequence[Row], path: Path) -> None:
    """Draw the shares of right answers, and of right pages and sentences of these, with 95% intervals."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    fields = [name for name in SHARES if any(name in row for row in rows)]
    ways = group_by([row.with_name(f"{name_of(row)}, {row['budget']}") for row in rows], ("name",))
    width = 0.8 / len(ways)
    for i, ((name,), group) in enumerate(ways.items()):
        shares = {field: [row[field] for row in group if field in row] for field in fields}
        drawn = {field: share_of(values) for field, values in shares.items() if values}
        places = [fields.index(field) + i * width for field in drawn]
        bars = [[e.mean - e.low for e in drawn.values()], [e.high - e.mean for e in drawn.values()]]
        axis.bar(places, [e.mean for e in drawn.values()], yerr=bars, width=width, capsize=3, label=name)
    axis.set_xticks(np.arange(len(fields)) + 0.4 - width / 2, [METRICS[field] for field in fields], fontsize=8)
    axis.set_ylim(0, 1)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(title_of(rows[0]), fontsize=10)
    save(figure, path)


def plot_absent(rows: Sequence[Row], path: Path) -> None:
    """Draw a panel for each length: relevance and words of the best chunk of each prompt."""
    import matplotlib.pyplot as plt

    panels = group_by(rows, ("length",))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1 + 4 * len(panels), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, ((length,), group) in zip(axes[0], panels.items(), strict=True):
        for (fact,), of_fact in group_by(group, ("fact",)).items():
            x, y = ([row[name] for row in of_fact] for name in ("relevance", "coverage"))
            axis.scatter(x, y, s=12, alpha=0.6, color=COLORS[fact], label=NAMES[fact])
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="relevance of the best chunk")
        axis.set_title(f"{length:,} tokens", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("share of the question's words in it")
    figure.legend(*axes[0][-1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(title_of({**rows[0], "length": None}), fontsize=10)
    save(figure, path)
