"""Budgets: how many cells a sequence may keep."""

import math
import re
from dataclasses import dataclass

from .errors import UsageError


@dataclass(frozen=True)
class Budget:
    """A number of cells, or a share of the prompt."""

    amount: float
    is_share: bool

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read "256" (cells) or "12.5%" (of the prompt's cells). Raises `UsageError`."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip())
        if not match:
            raise UsageError(f"--kv-budget {text!r}: give a number of cells (1024) or a share of the prompt (25%)")
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
        wanted = math.ceil(n_prompt * self.amount / 100) if self.is_share else int(self.amount)
        return min(wanted, n_prompt)
