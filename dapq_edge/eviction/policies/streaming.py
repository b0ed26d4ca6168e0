"""streaming: StreamingLLM (arXiv 2309.17453)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...cache.kv_cache import KVCache
from ..score import Scores
from .base import ScoringPolicy


@dataclass(frozen=True)
class Streaming(ScoringPolicy):
    """Keep the sinks and the most recent cells (arXiv 2309.17453, section 3.2); positions stay the true ones."""

    sees_attention: ClassVar[bool] = False

    name: str = "streaming"
    summary: str = "the sinks and the most recent cells (StreamingLLM, arXiv 2309.17453)"

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        ages = np.arange(cache.n_cells, dtype=np.float32)
        return [np.tile(ages, (n_head_kv, 1)) for n_head_kv in cache.gathered_heads().values()]
