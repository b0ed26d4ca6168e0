"""h2o: the attention of the whole prompt (H2O, arXiv 2306.14048)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...cache.kv_cache import KVCache
from ...errors import DapqError, UnsupportedModelError
from ...llamacpp import context
from ...llamacpp.native import ProbeType
from ..score import Scores, group_heads
from .base import ScoringPolicy
from .parts import BestAndRecentHalf, Selection

# tokens that are probed together; what they pay to each other is not counted
N_PROBE = 64


@dataclass(frozen=True)
class H2O(ScoringPolicy):
    """Keep the recent half of the budget and the cells that drew most attention of the whole prompt.

    H2O (arXiv 2306.14048, section 4) adds up the attention while it decodes; here the prompt is probed again from its
    start, which takes as long as reading it. After an eviction that is not possible any more.
    """

    needs_whole_prompt: ClassVar[bool] = True

    name: str = "h2o"
    summary: str = (
        "recent cells and those that the whole prompt attends to (H2O, arXiv 2306.14048); slow, one-shot only"
    )
    n_sink: int = 0
    n_recent: int = 0
    selection: Selection = BestAndRecentHalf()

    @property
    def n_probe(self) -> int:
        return N_PROBE

    def check(self, cache: KVCache) -> None:
        super().check(cache)
        cache.probed_heads()
        if context.n_swa(cache.ctx):
            raise UnsupportedModelError("h2o probes the whole prompt, which sliding-window layers have forgotten")

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        tokens, own = cache.sequence.recent, cache.gathered_heads()
        if len(tokens) != cache.n_cells:
            raise DapqError("h2o needs all tokens of the prompt: set `one_shot`")
        total = [np.zeros((n_head_kv, len(tokens)), np.float32) for n_head_kv in own.values()]
        for start in range(0, len(tokens), N_PROBE):
            part = tokens[start : start + N_PROBE]
            layers = cache.probe(part, start, ProbeType.MEAN)
            for i, layer in enumerate(layer for layer in layers if layer.layer in own):
                total[i] += len(part) * group_heads(layer.attention, layer.n_head_kv)
        return total
