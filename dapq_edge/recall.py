"""What a question finds in the cells of a cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .cache import KVCache
from .heads import HeadProfile
from .native import ProbeType
from .policies.base import Policy
from .scores import relevance, retrieval_heads

# first cells that draw attention whatever they hold
N_SINK = 4

# what cells have to reach to serve a question, see README, "The second question"
MIN_RELEVANCE, MIN_CONFIDENCE = 0.55, 0.85

# a guess to which all cells are less relevant is written without them ("Tell me a joke.")
MIN_USED = 0.12

# tokens of the answer that are guessed from the cells
N_LOOK_AHEAD = 8


@dataclass(frozen=True)
class Recall:
    """What a question attends to, and a guess at its answer.

    asked, guessed: the largest attention that their tokens pay to each cell, of the heads that find facts: float32
    [heads, cells]. confidence: how sure the model is of the guess, 0 to 1.
    """

    asked: npt.NDArray[np.float32]
    guessed: npt.NDArray[np.float32]
    confidence: float

    def relevance(self, cells: slice) -> float:
        """How relevant `cells` are to the question, 0 to 1."""
        # a guess that nothing supports attends to something, too
        return (relevance(self.asked, cells) + self.confidence * relevance(self.guessed, cells)) / 2


def recall(cache: KVCache, question: Sequence[int], heads: HeadProfile | None) -> Recall:
    """Ask a cache whose last tokens are `question`; it is left as it was. Raises as `KVCache.probe` does."""
    pos = cache.next_position

    def attention(tokens: Sequence[int], first: int) -> npt.NDArray[np.float32]:
        return retrieval_heads(cache.probe(tokens, first, ProbeType.MAX), heads)

    ahead, confidence = cache.peek(N_LOOK_AHEAD)
    return Recall(attention(question, pos - len(question)), attention(ahead, pos), confidence)


def serves(cache: KVCache, question: Sequence[int], policy: Policy) -> bool:
    """Whether the cells that were kept before `question`, the last tokens of the cache, answer it, or no cells need to.

    If they do, a guess at the answer attends to them, and the model is sure of it.
    """
    found = recall(cache, question[-policy.n_probe :], policy.heads)
    cells = slice(N_SINK, cache.n_cells - len(question))
    if relevance(found.guessed, cells) < MIN_USED:
        return True
    return found.relevance(cells) >= MIN_RELEVANCE and found.confidence >= MIN_CONFIDENCE
