"""Pictures, with matplotlib if it is there."""

from pathlib import Path

import numpy as np

from ..errors import DapqError
from ..heads import HeadProfile


def require_matplotlib() -> None:
    """Raise `DapqError` before work is done whose picture could not be drawn."""
    try:
        import matplotlib
    except ImportError as error:
        raise DapqError("--plot needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")


def plot_heads(profile: HeadProfile, path: Path) -> None:
    """Layers x heads: attention from answers to their facts; beside it the eviction error of each layer."""
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


def save(figure: object, path: Path) -> None:
    """Write a figure. Raises `DapqError` if the file cannot be written."""
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise DapqError(f"cannot write {path}: {error}") from error
