"""razor: more cells in the layers whose heads find facts (RazorAttention, arXiv 2407.15891)."""

from dataclasses import dataclass

from .fused import Fused
from .parts import ByRetrieval, LayerBudget


@dataclass(frozen=True)
class Razor(Fused):
    """Fused with more cells in the layers whose heads find facts (RazorAttention, arXiv 2407.15891).

    The paper (section 3) keeps everything in retrieval heads, and the ends of the text with a compensation token in the
    others. Here all heads of a layer keep as many cells, so that layers take the place of heads, from half to three
    times the budget; a compensation token did not help. See docs/related.md for what it gains, and where it loses.
    """

    name: str = "razor"
    summary: str = "fused, more cells in layers whose heads find facts (RazorAttention, arXiv 2407.15891)"
    layer_budget: LayerBudget = ByRetrieval()
