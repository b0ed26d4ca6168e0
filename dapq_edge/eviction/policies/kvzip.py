"""kvzip: the text itself, repeated, as queries (KVzip, arXiv 2505.23416)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...cache.kv_cache import KVCache
from ...llamacpp.native import ProbeType
from ..score import Scores
from .base import ScoringPolicy
from .parts import ByScore, BySensitivity, LayerBudget

# tokens that are repeated at once, and tokens before them that say where they stand (section 3.4)
N_PART, N_BEFORE = 56, 8


@dataclass(frozen=True)
class KVzip(ScoringPolicy):
    """Keep the cells from which the model could write the text again, whatever is asked later (arXiv 2505.23416).

    The text is repeated part by part behind its end, and the largest attention that a cell gets from it, in any query
    head of its KV head, is its score (sections 3.2 and 3.4). What was repeated once is not repeated again: its cells
    keep their score, so that a text which is read in chunks needs no full cache. The paper shares a budget among all
    heads; here layers share it, and the heads of a layer keep equal numbers: by what harm the calibration of the model
    found, or without one by the scores.
    """

    name: str = "kvzip"
    summary: str = "cells from which the text can be written again, for questions to come (KVzip, arXiv 2505.23416)"
    layer_budget: LayerBudget = BySensitivity(otherwise=ByScore())

    @property
    def n_probe(self) -> int:
        return N_PART + N_BEFORE

    def check(self, cache: KVCache) -> None:
        super().check(cache)
        cache.probed_heads()

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        heads, missing = cache.gathered_heads(), cache.sequence.n_missing
        missing = missing or [0] * len(heads)
        known = cache.sequence.marks
        n_known = known[0].shape[1] + missing[0] if known else 0
        scores = [np.zeros((n_head_kv, cache.n_cells), np.float32) for n_head_kv in heads.values()]
        for layer, marks, n in zip(scores, known, missing, strict=False):
            layer[:, n : n + marks.shape[1]] = marks
        for part in _parts(cache.sequence.recent, cache.n_cells - n_known):
            for layer, seen in zip(scores, _repeat(cache, part), strict=True):
                np.maximum(layer, seen, out=layer)
        cache.mark([layer[:, n:] for layer, n in zip(scores, missing, strict=True)])
        return scores


def _parts(tokens: npt.NDArray[np.int32], n_new: int) -> list[npt.NDArray[np.int32]]:
    """Return the last `n_new` tokens in parts, each with the tokens before it."""
    first = max(0, len(tokens) - n_new)
    return [tokens[max(0, start - N_BEFORE) : start + N_PART] for start in range(first, len(tokens), N_PART)]


def _repeat(cache: KVCache, tokens: npt.NDArray[np.int32]) -> Scores:
    """Return the largest attention that each cell gets from `tokens` behind the text, in any head that reads it."""
    own = cache.gathered_heads()
    layers = [layer for layer in cache.probe(tokens, cache.answer_position, ProbeType.MAX) if layer.layer in own]
    return [layer.attention.reshape(layer.n_head_kv, -1, cache.n_cells).max(axis=1) for layer in layers]
