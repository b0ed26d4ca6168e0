"""snapkv: the end of the prompt as queries (SnapKV, arXiv 2404.14469)."""

from dataclasses import dataclass

from ..cache import KVCache
from .base import ProbingPolicy, Queries


@dataclass(frozen=True)
class SnapKV(ProbingPolicy):
    """Keep the cells that the last `n_recent` tokens of the prompt attend to, and these themselves (arXiv 2404.14469).

    The mean over the queries, its average over `pooling` cells, the mean over the query heads of a KV head (section 4).
    After a gap or an eviction, the window has only the tokens behind it.
    """

    name = "snapkv"
    summary = "cells that the last tokens of the prompt attend to (SnapKV, arXiv 2404.14469)"

    n_recent: int = 32

    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        window = cache.recent[-self.n_recent :]
        return window, cache.next_position - len(window)
