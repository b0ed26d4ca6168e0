"""Pictures, with matplotlib if it is there."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..eviction.heads import HeadProfile
from ..render.pictures import save
from .estimates import Estimate, mean
from .results import Row
from .source_plots import plot_absent, plot_citations
from .summary import group_by, name_of, of_full, title_of

FULL_COLOR = "#8a8f98"


def plot_heads(profile: HeadProfile, path: Path) -> None:
    """Draw layers x heads: attention from answers to their facts; beside it the eviction error of each layer."""
    import matplotlib.pyplot as plt

    layers, n_head = list(profile.retrieval), max(map(len, profile.retrieval.values()))
    grid = np.full((len(layers), n_head), np.nan)
    for row, scores in zip(grid, profile.retrieval.values(), strict=True):
        row[: len(scores)] = scores
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(3 + 0.35 * n_head, 1.5 + 0.22 * len(layers)), sharey=True, width_ratios=(3, 1)
    )
    image = left.imshow(grid, aspect="auto", cmap="viridis", vmin=0)
    left.set(xlabel="query head", ylabel="layer", title="attention from an answer to its fact")
    left.set_yticks(range(len(layers)), layers)
    figure.colorbar(image, ax=left)
    right.barh(range(len(layers)), list(profile.errors.values()), color="#1f6f8b")
    right.set(xlabel="attention lost", title="eviction error")
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def plot_results(rows: Sequence[Row], path: Path) -> None:
    """Draw rows of one kind of task, each in its own way; of those without one, curves over the budget."""
    draw = {"needle": _plot_needles, "relevance": _plot_ranks, "citations": plot_citations, "absent": plot_absent}
    draw.get(rows[0]["task"], _plot_curves)(rows, path)


def _plot_needles(rows: Sequence[Row], path: Path) -> None:
    """Draw lengths x depths, a map for each policy and budget: the share of facts that is found."""
    import matplotlib.pyplot as plt

    lengths, depths = (sorted({row[field] for row in rows}) for field in ("length", "depth"))
    maps = group_by([row.with_name(name_of(row)) for row in rows], ("name", "budget"))
    budgets = sorted({budget for policy, budget in maps if policy != "full"}, key=_amount)
    policies = list(dict.fromkeys(policy for policy, _ in maps))
    n_columns = max(1, len(budgets))
    figure, axes = plt.subplots(
        len(policies),
        n_columns,
        # not narrower than the title
        figsize=(
            max(6.0, 1.5 + n_columns * (0.8 + 0.4 * len(depths))),
            1.2 + len(policies) * (0.6 + 0.35 * len(lengths)),
        ),
        squeeze=False,
        layout="constrained",
    )
    for line, policy in zip(axes, policies, strict=True):
        for axis, budget in zip(line, ["100%"] if policy == "full" else budgets, strict=False):
            group = group_by(maps.get((policy, budget), []), ("length", "depth"))
            grid = [[_mean_score(group.get((length, depth), [])) for depth in depths] for length in lengths]
            image = axis.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
            axis.set_title("full cache" if policy == "full" else f"{policy}, {budget}", fontsize=9)
            axis.set_xticks(range(len(depths)), [f"{depth:.0%}" for depth in depths], fontsize=8)
            axis.set_yticks(range(len(lengths)), [f"{length:,}" for length in lengths], fontsize=8)
            for y, x in np.ndindex(len(lengths), len(depths)):
                if np.isfinite(grid[y][x]):
                    axis.text(x, y, f"{grid[y][x]:.0%}", ha="center", va="center", fontsize=7)
        for axis in line[1 if policy == "full" else len(budgets) :]:
            axis.set_axis_off()
    figure.supxlabel("depth of the fact", fontsize=9)
    figure.supylabel("tokens of the prompt", fontsize=9)
    figure.suptitle(title_of({**rows[0], "length": None}), fontsize=10)
    figure.colorbar(image, ax=axes, label="found", shrink=0.8)
    save(figure, path)


def _mean_score(rows: Sequence[Row]) -> float:
    return float(np.mean([row["score"] for row in rows])) if rows else np.nan


def _plot_ranks(rows: Sequence[Row], path: Path) -> None:
    """Draw a panel for each length: how often each way ranks the right chunk first, and among four."""
    import matplotlib.pyplot as plt

    panels = group_by(rows, ("length",))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1 + 4 * len(panels), 3), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, ((length,), group) in zip(axes[0], panels.items(), strict=True):
        ways = group_by(group, ("policy",))
        for offset, (field, label) in enumerate((("first", "first"), ("among_four", "among four"))):
            shares = [np.mean([row[field] for row in of_way]) for of_way in ways.values()]
            places = np.arange(len(ways)) + 0.4 * offset
            axis.bar(places, shares, width=0.38, label=label, color=("#1f6f8b", FULL_COLOR)[offset])
        axis.set_xticks(np.arange(len(ways)) + 0.2, [name for (name,) in ways], fontsize=8)
        axis.set_title(f"{length:,} tokens, {group[0]['chunks']} chunks", fontsize=9)
        axis.set_ylim(0, 1)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("questions whose chunk is found")
    axes[0][-1].legend(fontsize=8)
    figure.suptitle(title_of({**rows[0], "length": None}), fontsize=10)
    save(figure, path)


def _plot_curves(rows: Sequence[Row], path: Path) -> None:
    """Draw a curve for each policy, task and length: KL divergence, or the score as a share of the full cache's."""
    import matplotlib.pyplot as plt

    panels = group_by(rows, ("task", "length"))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1 + 4 * len(panels), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    is_divergence = "kl" in rows[0]
    for axis, group in zip(axes[0], panels.values(), strict=True):
        budgets = sorted({row["budget"] for row in group if row["policy"] != "full"}, key=_amount)
        named = [row.with_name(name_of(row)) for row in group if row["policy"] != "full"]
        for (name,), of_policy in group_by(named, ("name",)).items():
            by_budget = group_by(of_policy, ("budget",))
            places = [i for i, budget in enumerate(budgets) if (budget,) in by_budget]
            points = [_estimate(group, by_budget[(budgets[i],)], is_divergence) for i in places]
            drawn = [(i, point) for i, point in zip(places, points, strict=True) if point]
            if drawn:
                x, y = [i for i, _ in drawn], [point.mean for _, point in drawn]
                bars = [[p.mean - p.low for _, p in drawn], [p.high - p.mean for _, p in drawn]]
                axis.errorbar(x, y, np.nan_to_num(bars, posinf=0), marker="o", capsize=3, label=name)
        axis.axhline(0 if is_divergence else 1, color=FULL_COLOR, linestyle="--", label="full cache")
        axis.set_xticks(range(len(budgets)), budgets)
        axis.set_title(title_of({**group[0], "model": ""}), fontsize=9)
        axis.set_xlabel("cells that are kept")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("KL to the full cache, nats" if is_divergence else "score, of the full cache's")
    axes[0][-1].legend(fontsize=8)
    figure.suptitle(rows[0].get("model", ""), fontsize=10)
    save(figure, path)


def _estimate(rows: Sequence[Row], group: Sequence[Row], is_divergence: bool) -> Estimate | None:
    return mean([row["kl"] for row in group]) if is_divergence else of_full(rows, group)


def _amount(budget: str) -> tuple[bool, float]:
    """Sort cells before shares, each by size."""
    return budget.endswith("%"), float(budget.rstrip("%"))
