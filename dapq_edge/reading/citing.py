"""Citing: which tokens of a text an answer was read from, seen by the attention of the heads that copy facts.

While it writes, a retrieval head (arXiv 2404.15574) attends to the tokens that it copies. They may be other cells in
each head once a cache was evicted, so that attention is counted for tokens of the text.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache
from ..cache.sequence_cells import LayerAttention
from ..eviction.heads import HeadProfile
from ..llamacpp.native import ProbeType, probe_tokens_max
from .relevance import N_BEST

# tokens of a sentence that are probed, at most
N_CITED = 48


def attention_of(cache: KVCache, heads: HeadProfile | None, written: range) -> npt.NDArray[np.float32]:
    """Return how much each token of the text was attended to while some tokens were written: float32 [n_tokens].

    It is the largest attention of their queries, mean of the `N_BEST` heads that copy best, or that attend most.

    Args:
        cache: It has them, and nothing was evicted since.
        heads: The head profile, if there is one.
        written: Tokens of the text; of more than `N_CITED`, the last ones.

    Raises as `KVCache.probe` does. The cache is left as it was.
    """
    sequence = cache.sequence
    n_free = cache.allocated[0] - cache.n_cells
    # a token is written by the query of the one before it
    last = written.stop - 1
    first = max(written.start - 1, last - min(N_CITED, probe_tokens_max(cache.ctx), n_free), 0)
    position = int(np.searchsorted(sequence.text_index, first))
    seen = np.zeros(sequence.n_tokens, dtype=np.float32)
    if first >= last or not cache.sees(position):
        return seen
    layers = cache.probe(sequence.text[first:last], position, ProbeType.MAX)
    heads_of = sorted(_heads_of(cache, layers, heads), key=lambda found: -found[0])
    for _, tokens, attention in heads_of[:N_BEST]:
        is_there = tokens >= 0
        seen[tokens[is_there]] += attention[is_there] / N_BEST
    return seen


def _heads_of(
    cache: KVCache, layers: Sequence[LayerAttention], heads: HeadProfile | None
) -> Iterator[tuple[float, npt.NDArray[np.intp], npt.NDArray[np.float32]]]:
    """Yield how well each head copies, which token each of its cells holds, and its attention to them: [n_cells]."""
    sequence = cache.sequence
    tokens_of = dict(zip(cache.gathered_heads(), sequence.tokens_of_cells(), strict=True)) if sequence.kept else None
    for layer in layers:
        # a layer without cells of its own sees those of another one
        tokens = sequence.text_index[None] if tokens_of is None else tokens_of.get(layer.layer)
        if tokens is None:
            continue
        n_heads = len(layer.attention)
        for head, attention in enumerate(layer.attention):
            rank = float(attention.max(initial=0)) if heads is None else heads.retrieval[layer.layer][head]
            yield rank, tokens[head * len(tokens) // n_heads], attention
