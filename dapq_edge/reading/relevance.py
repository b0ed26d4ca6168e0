"""Relevance: what a question finds in the cells of a cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache
from ..cache.sequence_cells import LayerAttention
from ..cells import N_SINK
from ..eviction.heads import HeadProfile
from ..llamacpp.native import ProbeType

# heads of a model, of all its layers, that tell where a fact is
N_BEST = 8

# mean of the relevance of cells and of how sure the model is that serve a question, see docs/results.md, "The second
# question"
MIN_SERVED = 0.82

# a guess to which all cells are less relevant is written without them ("Tell me a joke.")
MIN_USED = 0.12

# tokens of the answer that are guessed from the cells
N_LOOK_AHEAD = 8

# whether the cells that were kept before the question answer it: the cache, whose last tokens are the question, the
# question, the head profile, and how many tokens are probed at once
Serves = Callable[[KVCache, Sequence[int], HeadProfile | None, int], bool]


@dataclass(frozen=True)
class Finding:
    """Attention of a question, and of a guess at its answer.

    Attributes:
        asked: The largest attention that the question's tokens pay to each cell, of the heads that find facts: float32
            [heads, cells].
        guessed: The same of the guess.
        confidence: How sure the model is of the guess, 0 to 1.
    """

    asked: npt.NDArray[np.float32]
    guessed: npt.NDArray[np.float32]
    confidence: float

    def relevance(self, cells: slice) -> float:
        """Return how relevant `cells` are to the question, 0 to 1."""
        # a guess that nothing supports attends to something, too
        return (relevance(self.asked, cells) + self.confidence * relevance(self.guessed, cells)) / 2


def ask(cache: KVCache, question: Sequence[int], heads: HeadProfile | None, n_queries: int) -> Finding:
    """Ask a cache whose last tokens are `question`; it is left as it was. Raises as `KVCache.probe` does.

    Args:
        cache: What comes before the answer is asked, too.
        question: Token ids.
        heads: The head profile, if there is one.
        n_queries: Tokens that are probed at once.
    """

    def attention(tokens: Sequence[int], first: int) -> npt.NDArray[np.float32]:
        parts = []
        for start in range(0, len(tokens), n_queries):
            layers = cache.probe(tokens[start : start + n_queries], first + start, ProbeType.MAX)
            parts.append(retrieval_heads(layers, heads))
        largest: npt.NDArray[np.float32] = np.maximum.reduce(parts)
        return largest

    ahead, confidence = cache.peek(N_LOOK_AHEAD)
    asked = attention([*question, *cache.ending], cache.next_position - len(question))
    return Finding(asked, attention(ahead, cache.answer_position), confidence)


def serves(cache: KVCache, question: Sequence[int], heads: HeadProfile | None, n_queries: int) -> bool:
    """Return whether the cells that were kept before `question`, the cache's last tokens, answer it, or none need to.

    If they do, a guess at the answer attends to them, and the model is sure of it. A question that cannot be probed,
    since something was evicted in the middle of it, is not known to be answered.
    """
    if not cache.sees(cache.next_position - len(question)):
        return False
    found = ask(cache, question, heads, n_queries)
    cells = slice(N_SINK, cache.n_cells - len(question))
    if relevance(found.guessed, cells) < MIN_USED:
        return True
    return (found.relevance(cells) + found.confidence) / 2 >= MIN_SERVED


def retrieval_heads(layers: Sequence[LayerAttention], heads: HeadProfile | None) -> npt.NDArray[np.float32]:
    """Return the attention of the `N_BEST` best heads of a profile, or of all heads: float32 [heads, cells]."""
    seen = {layer.layer: layer.attention for layer in layers}
    if heads is None:
        return np.concatenate(list(seen.values()))
    every = [(share, layer, head) for layer in seen for head, share in enumerate(heads.retrieval[layer])]
    return np.stack([seen[layer][head] for _, layer, head in sorted(every)[-N_BEST:]])


def relevance(attention: npt.NDArray[np.float32], cells: slice) -> float:
    """Return how much some queries read in `cells`: their largest attention, mean of `N_BEST` heads that attend most.

    Heads that copy what the answer needs point at it with one query and hardly look elsewhere; most heads do neither.
    Measured against other ways; see docs/ablations.md.

    Args:
        attention: Of the `retrieval_heads`, reduced by `ProbeType.MAX`: float32 [heads, cells].
        cells: Some of them.
    """
    return float(np.sort(attention[:, cells].max(axis=1))[-N_BEST:].mean())
