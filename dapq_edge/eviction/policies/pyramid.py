"""pyramid: fewer cells in higher layers (PyramidKV, arXiv 2406.02069)."""

from dataclasses import dataclass

from .parts import LayerBudget, Pyramid
from .snapkv import SnapKV


@dataclass(frozen=True)
class PyramidKV(SnapKV):
    """SnapKV with a window of 8 and a budget that falls with the layers (PyramidKV, arXiv 2406.02069, section 4)."""

    name: str = "pyramid"
    summary: str = "snapkv with fewer cells in higher layers (PyramidKV, arXiv 2406.02069)"
    layer_budget: LayerBudget = Pyramid()
    n_recent: int = 8
