"""Divergence: how far the next tokens of a changed cache are from those of the full one."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache


def log_probabilities(cache: KVCache, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the log-probabilities of the whole vocabulary after each of `tokens`: float64 [tokens, n_vocab].

    The tokens are read one after the other, behind what the cache holds.
    """
    rows = []
    for token in tokens:
        cache.read([token])
        logits = cache.logits.astype(np.float64)
        logits -= logits.max()
        rows.append(logits - np.log(np.exp(logits).sum()))
    return np.stack(rows)


def kl_divergence(full: npt.NDArray[np.float64], evicted: npt.NDArray[np.float64]) -> float:
    """Return the mean KL divergence of the evicted cache's next-token distributions from the full one's, in nats."""
    return float((np.exp(full) * (full - evicted)).sum(axis=1).mean())
