"""Budgets: how many cells a sequence may keep, and how layers share them."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError


class Budget(ABC):
    """Number of cells that a sequence may keep: `Cells`, `Share` or `Auto`."""

    # whether less may be kept than was asked for, where the model does not see that much at once
    is_flexible = True

    @abstractmethod
    def n_keep(self, n_prompt: int) -> int:
        """Return the cells to keep of a prompt with `n_prompt` cells; never more than it has."""

    def n_most(self, n_prompt: int) -> int:
        """Return the cells to keep at most where eviction would hurt."""
        return self.n_keep(n_prompt)


@dataclass(frozen=True)
class Cells(Budget):
    """A number of cells. Raises `UsageError` if it is not positive."""

    n: int
    is_flexible = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"{self.n}: keep at least one cell", param="kv_budget")

    def n_keep(self, n_prompt: int) -> int:
        return min(self.n, n_prompt)

    def __str__(self) -> str:
        return str(self.n)


@dataclass(frozen=True)
class Share(Budget):
    """A share of the prompt, in percent. Raises `UsageError` if it is not above 0 and up to 100."""

    percent: float

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise UsageError(f"{self}: a share of the prompt is above 0% and at most 100%", param="kv_budget")

    def n_keep(self, n_prompt: int) -> int:
        return min(math.ceil(n_prompt * self.percent / 100), n_prompt)

    def __str__(self) -> str:
        return f"{self.percent:g}%"


@dataclass(frozen=True)
class Auto(Budget):
    """Budget that the free memory has room for, see `planning.planner`; both are 0 until that is known.

    Attributes:
        n_start: Cells that are kept of a prompt that is longer than `n_limit`.
        n_limit: Cells of a prompt that is kept whole, and that are kept at most where eviction would hurt.
    """

    n_start: int = 0
    n_limit: int = 0

    def n_keep(self, n_prompt: int) -> int:
        if not self.n_limit:
            raise UsageError("auto: it has to be planned first, see Engine.auto_budget", param="kv_budget")
        return n_prompt if n_prompt <= self.n_limit else min(self.n_start, n_prompt)

    def n_most(self, n_prompt: int) -> int:
        return max(self.n_keep(n_prompt), min(n_prompt, self.n_limit))

    def __str__(self) -> str:
        return "auto"


def parse_budget(budget: str | int | Budget) -> Budget:
    """Read 256 or "256" (cells), "12.5%" (of the prompt's cells) or "auto". Raises `UsageError`."""
    if isinstance(budget, Budget):
        return budget
    text = str(budget).strip()
    if text == "auto":
        return Auto()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
    if not match:
        raise UsageError(
            f"{text!r}: give a number of cells (1024), a share of the prompt (25%), or auto", param="kv_budget"
        )
    amount = float(match[1])
    if match[2]:
        return Share(amount)
    if not amount.is_integer():
        raise UsageError(f"{text}: a number of cells must be an integer; add % for a share", param="kv_budget")
    return Cells(int(amount))


def pyramid(n_keep: int, n_layer: int, n_min: int, n_max: int, steepness: float = 20.0) -> list[int]:
    """Return the cells of each layer, on average `n_keep`, falling linearly from at most `n_max` to n_keep / steepness.

    None gets less than `n_min`. PyramidKV (arXiv 2406.02069, section 4.2), where steepness is beta.
    """
    least = max(n_keep / steepness, n_min, 2 * n_keep - n_max)
    if n_layer == 1:
        return [n_keep]
    return [int(n) for n in np.linspace(2 * n_keep - least, least, n_layer).round()]


def by_weight(
    n_keep: int, weights: Sequence[float], n_min: int, n_max: int, min_share: float, max_share: float
) -> list[int]:
    """Return the cells of each layer, on average `n_keep`, proportional to their weights.

    None gets less than `n_min` or `min_share` of n_keep, or more than `n_max` or `max_share` of it, as in CompressKV
    (arXiv 2508.02401, section 3.3).
    """
    low, high = max(n_min, min_share * n_keep), min(n_max, max_share * n_keep)
    positive = np.maximum(weights, 1e-6 * max(*weights, 1e-6))
    # the factor with which the bounded budgets add up to the whole
    least, most = 0.0, high / positive.min()
    for _ in range(200):
        factor = (least + most) / 2
        if np.clip(factor * positive, low, high).mean() < n_keep:
            least = factor
        else:
            most = factor
    return [int(n) for n in np.clip(most * positive, low, high).round()]


def in_steps(n_keep: Sequence[int], n_most: Sequence[int], n_min: int, step: int) -> list[int]:
    """Round the cells of each layer so that they differ by multiples of `step`.

    On average they are those of `n_keep`, or fewer where layers have no more. No layer gets less than `n_min`, unless
    it has less.

    Args:
        n_keep: Wanted cells of each layer.
        n_most: Cells that each layer has.
        n_min: The least.
        step: See `KVCache.layer_step`.
    """
    wanted, has = np.minimum(n_keep, n_most), np.asarray(n_most)
    most, least = wanted.max(), np.minimum(n_min, has)
    if (wanted == most).all():
        return [int(n) for n in wanted]
    steps = np.rint((most - wanted) / step).astype(int)
    while steps.any():
        # what a layer without a step keeps, so that the mean stays, and no layer needs more than it has
        first = min(most, round((wanted + step * steps).mean()), (has + step * steps).min())
        kept = first - step * steps
        if (kept >= least).all():
            return [int(n) for n in kept]
        steps = np.minimum(steps, steps.max() - 1)
    n_all = int(has.min())
    if n_all >= n_min:
        return [int(min(most, max(n_min, round(wanted.mean())), n_all))] * len(has)
    # the layer that has least keeps all of it, and the others need not keep as few
    return [int(n) for n in n_all + (np.maximum(wanted, least) - n_all) // step * step]
