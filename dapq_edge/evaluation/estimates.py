"""Estimates: means and shares, each with a 95% interval, and how well a number tells two kinds apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# standard deviations of a 95% interval
Z = 1.96


@dataclass(frozen=True)
class Estimate:
    """A mean and the bounds of its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def percent(self) -> str:
        """Return it for people."""
        return f"{self.mean:.1%} ({self.low:.0%} to {self.high:.0%})"


def wilson(share: float, n: int) -> Estimate:
    """Return a share of n with its interval (Wilson 1927)."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def share_of(values: Sequence[float]) -> Estimate:
    """Return the share of those that are true, with its interval."""
    return wilson(float(np.mean(values)), len(values))


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of numbers; the interval of a single one is not finite."""
    average = float(np.mean(values))
    half = Z * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(average, average - half, average + half)


def auroc(above: Sequence[float], below: Sequence[float]) -> float:
    """Return how often one of `above` is larger than one of `below`, equal ones counting half: 0.5 is by chance."""
    difference = np.sign(np.subtract.outer(np.asarray(above, dtype=float), np.asarray(below, dtype=float)))
    return float((difference.mean() + 1) / 2)
