"""Query heads: which heads tell, by their attention from a question, which chunk of a text answers it.

They are chosen by real questions (QRHead, arXiv 2506.09944, section 3), against a question without content (arXiv
2410.02642, section 3.2); see docs/results.md, "Questions in other words".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache
from ..cells import CHUNK
from ..eviction.heads import QueryHead
from ..llamacpp import context
from ..llamacpp.native import ProbeType
from ..prompt.window import window_of
from ..reading.engine import Engine
from ..reading.evidence import N_PROBED, NEUTRAL, evidence
from ..reading.windows import excerpts
from .questions import Asked

# heads of a profile, at most
N_KEPT = 16

# heads of the first layers only, so that windows need no others
MAX_DEPTH = 2 / 3

# tokens of a document that are read at once
N_WINDOW = 820


@dataclass(frozen=True)
class Judged:
    """Evidence of the chunks of a document, and the one with the fact.

    Attributes:
        evidence: float32 [heads, chunks].
        right: The number of that chunk.
    """

    evidence: npt.NDArray[np.float32]
    right: int


def find_query_heads(engine: Engine, cases: Iterable[Asked]) -> tuple[QueryHead, ...]:
    """Return the heads that tell best which chunk answers, the best first.

    Raises `DapqError` as `KVCache.probe` does.
    """
    engine.open(N_WINDOW + CHUNK)
    cache, neutral = engine.cache, engine.model.tokenize(NEUTRAL)
    judged = [judge(cache, case, neutral) for case in cases]
    names = [(layer, head) for layer, (n_head, _) in cache.probed_heads().items() for head in range(n_head)]
    return best_heads(judged, names, MAX_DEPTH * context.n_layer(cache.ctx))


def judge(cache: KVCache, case: Asked, neutral: Sequence[int]) -> Judged:
    """Ask all windows of a document, and return the evidence of their chunks by each head."""
    prompt, around = case.prompt, window_of(case.prompt)
    found, starts = [], []
    for window in excerpts([len(prompt.body)], N_WINDOW):
        tokens, cells = window.tokens(prompt, around)
        cache.clear()
        cache.read(tokens)
        other = _attention(cache, neutral)
        cache.read(around.before)
        asked = _attention(cache, around.asking[-N_PROBED:])
        found += [evidence(asked, other, chunk) for chunk in cells]
        starts += [chunk.start for chunk in window.chunks]
    cache.clear()
    middle = (case.fact.start + case.fact.stop) // 2
    return Judged(np.stack(found, axis=1), int(np.searchsorted(starts, middle, side="right")) - 1)


def _attention(cache: KVCache, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the largest attention that tokens pay to each cell: float32 [heads, cells]."""
    return np.concatenate([layer.attention for layer in cache.probe(tokens, cache.next_position, ProbeType.MAX)])


def best_heads(judged: Sequence[Judged], names: Sequence[tuple[int, int]], n_layers: float) -> tuple[QueryHead, ...]:
    """Return the heads of the first `n_layers` layers whose evidence of the right chunks stands out most."""
    others = np.concatenate([np.delete(case.evidence, case.right, axis=1) for case in judged], axis=1)
    mean, std = others.mean(axis=1), np.maximum(others.std(axis=1), 1e-6)
    # in units of each document, so that one with strong contrasts counts no more than others
    score = np.mean([standardised(case.evidence)[:, case.right] for case in judged], axis=0)
    shallow = [i for i in np.argsort(-score, kind="stable").tolist() if names[i][0] < n_layers]
    return tuple(
        QueryHead(names[i][0], names[i][1], float(score[i]), float(mean[i]), float(std[i])) for i in shallow[:N_KEPT]
    )


def standardised(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Return values in standard deviations from their mean, along the last axis."""
    spread = np.maximum(values.std(axis=-1, keepdims=True), 1e-6)
    standard: npt.NDArray[np.floating[Any]] = (values - values.mean(axis=-1, keepdims=True)) / spread
    return standard
