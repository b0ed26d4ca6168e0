"""Budgets: how many cells a sequence may keep."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import UsageError

# the budget that the free memory has room for, see `planner.auto_budget`
AUTO = "auto"

# by multiples of how many cells layers on a GPU differ (`llama_memory_seq_gather`)
STEP = 32


@dataclass(frozen=True)
class Budget:
    """A number of cells, or a share of the prompt.

    n_most: a prompt of up to so many cells is kept, and of a longer one more than `amount`, up to `n_most`, where
    eviction would hurt; 0 for a fixed budget.
    """

    amount: float
    is_share: bool
    n_most: int = 0

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read "256" (cells) or "12.5%" (of the prompt's cells). Raises `UsageError`."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip())
        if not match:
            raise UsageError(
                f"--kv-budget {text!r}: give a number of cells (1024), a share of the prompt (25%), or auto"
            )
        amount, is_share = float(match[1]), bool(match[2])
        if not is_share and not amount.is_integer():
            raise UsageError(f"--kv-budget {text}: a number of cells must be an integer; add % for a share")
        if amount == 0:
            raise UsageError(f"--kv-budget {text}: keep at least one cell")
        if is_share and amount > 100:
            raise UsageError(f"--kv-budget {text}: a share of the prompt is at most 100%")
        return cls(amount, is_share)

    def cells(self, n_prompt: int) -> int:
        """Cells to keep of a prompt with `n_prompt` cells; never more than it has."""
        if n_prompt <= self.n_most:
            return n_prompt
        wanted = math.ceil(n_prompt * self.amount / 100) if self.is_share else int(self.amount)
        return min(wanted, n_prompt)


def pyramid(n_keep: int, n_layer: int, n_min: int, n_max: int, steepness: float = 20.0) -> list[int]:
    """Cells of each layer, on average `n_keep`, falling linearly from at most `n_max` to n_keep / steepness.

    None gets less than `n_min`. PyramidKV (arXiv 2406.02069, section 4.2), where steepness is beta.
    """
    least = max(n_keep / steepness, n_min, 2 * n_keep - n_max)
    return np.linspace(2 * n_keep - least, least, n_layer).round().astype(int).tolist() if n_layer > 1 else [n_keep]


def by_error(
    n_keep: int, errors: Sequence[float], n_min: int, n_max: int, min_share: float, max_share: float
) -> list[int]:
    """Cells of each layer, on average `n_keep`, proportional to the errors that eviction makes there.

    None gets less than `n_min` or `min_share` of n_keep, or more than `n_max` or `max_share` of it; CompressKV (arXiv
    2508.02401, section 3.3).
    """
    low, high = max(n_min, min_share * n_keep), min(n_max, max_share * n_keep)
    weights = np.maximum(errors, 1e-6 * max(*errors, 1e-6))
    # the factor with which the bounded budgets add up to the whole
    least, most = 0.0, high / weights.min()
    for _ in range(200):
        factor = (least + most) / 2
        if np.clip(factor * weights, low, high).mean() < n_keep:
            least = factor
        else:
            most = factor
    return np.clip(most * weights, low, high).round().astype(int).tolist()


def in_steps(n_keep: Sequence[int], n_most: Sequence[int], n_min: int) -> list[int]:
    """Cells of each layer that differ by multiples of `STEP`, on average those of `n_keep` if all layers have as many.

    n_most: cells that each layer has; where they differ, they differ by multiples of `STEP`. No layer gets less than
    `n_min`, unless it has less.
    """
    wanted, has = np.minimum(n_keep, n_most), np.asarray(n_most)
    most = wanted.max()
    if (wanted == most).all():
        return wanted.tolist()
    if (has != has[0]).any():
        kept = has - STEP * np.rint((has - wanted) / STEP).astype(int)
        kept -= STEP * (kept > most)
        return np.minimum(kept + STEP * (kept < n_min), has).tolist()
    steps = np.rint((most - wanted) / STEP).astype(int)
    while True:
        kept = min(most, round((wanted + STEP * steps).mean())) - STEP * steps
        if kept.min() >= n_min or not steps.any():
            return kept.tolist()
        steps = np.minimum(steps, steps.max() - 1)
