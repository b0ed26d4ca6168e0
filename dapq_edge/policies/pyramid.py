"""pyramid: fewer cells in higher layers (PyramidKV, arXiv 2406.02069)."""

from dataclasses import dataclass
from typing import ClassVar

from ..budgets import pyramid
from .snapkv import SnapKV


@dataclass(frozen=True)
class PyramidKV(SnapKV):
    """SnapKV with a window of 8 and a budget that falls with the layers (PyramidKV, arXiv 2406.02069, section 4)."""

    name = "pyramid"
    summary = "snapkv with fewer cells in higher layers (PyramidKV, arXiv 2406.02069)"
    max_share: ClassVar[float] = 2.0

    n_recent: int = 8

    def layer_budgets(self, n_keep: int, n_cells: int, layers: list[int]) -> list[int]:
        return pyramid(n_keep, len(layers), self.n_sink + self.n_recent, n_cells)
