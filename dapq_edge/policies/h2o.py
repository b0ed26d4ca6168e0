"""h2o: the attention of the whole prompt (H2O, arXiv 2306.14048)."""

from dataclasses import dataclass
from typing import ClassVar

import llama_cpp
import numpy as np

from ..cache import Keep, KVCache
from ..errors import DapqError, UnsupportedModelError
from ..native import ProbeType
from ..scores import Scores, group_heads
from ..select import select
from .base import ScoringPolicy

# tokens that are probed together; what they pay to each other is not counted
N_PROBE = 64


@dataclass(frozen=True)
class H2O(ScoringPolicy):
    """Keep the recent half of the budget and the cells that drew most attention of the whole prompt.

    H2O (arXiv 2306.14048, section 4) adds up the attention while it decodes; here the prompt is probed again from its
    start, which takes as long as reading it. After an eviction that is not possible any more.
    """

    name = "h2o"
    summary = "recent cells and those that the whole prompt attends to (H2O, arXiv 2306.14048); slow, with --one-shot"
    n_probe: ClassVar[int] = N_PROBE
    reads_in_chunks: ClassVar[bool] = False

    n_sink: int = 0
    n_recent: int = 0

    def check(self, cache: KVCache) -> None:
        super().check(cache)
        cache.probed_heads()
        if llama_cpp.llama_model_n_swa(llama_cpp.llama_get_model(cache.ctx)):
            raise UnsupportedModelError("h2o probes the whole prompt, which sliding-window layers have forgotten")

    def select(self, cache: KVCache, scores: Scores, n_keep: int) -> Keep:
        return select(scores, [n_keep] * len(scores), self.n_sink, n_keep // 2, self.granularity)

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        tokens, own = cache.recent, cache.gathered_heads()
        if len(tokens) != cache.n_cells:
            raise DapqError("h2o needs all tokens of the prompt: set --one-shot")
        total = [np.zeros((n_head_kv, len(tokens)), np.float32) for n_head_kv in own.values()]
        for start in range(0, len(tokens), N_PROBE):
            part = tokens[start : start + N_PROBE]
            layers = cache.probe(part, start, ProbeType.MEAN)
            for i, layer in enumerate(layer for layer in layers if layer.layer in own):
                total[i] += len(part) * group_heads(layer.attention, layer.n_head_kv)
        return total
