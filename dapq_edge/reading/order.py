"""Order in which the windows of a document are read, and when reading stops."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .lexical import Matches

# a chunk is clearly relevant from here on if it has this share of the question's words, too, and nothing unread shares
# nearly as many; chosen on one half of the questions, see docs/results.md, "Questions in other words"
CLEAR, MIN_COVERAGE, NEAR = 0.1, 0.7, 0.5

# words alone are not certain, so that of two chunks with all of them the evidence chooses (a sentence between two)
BY_WORDS = 0.9

# it is not clear beside a chunk that is so many times as relevant
SHARE = 0.5


def reading_order(scores: Sequence[float]) -> list[int]:
    """Return the order of windows: those that share most words with the question first, about the same in their order.

    Args:
        scores: The best lexical score of each window.
    """
    largest = max(scores, default=0.0) or 1.0
    return sorted(range(len(scores)), key=lambda i: (-round(scores[i] / largest, 1), i))


def combined(relevance: npt.NDArray[np.float64], matches: Matches) -> npt.NDArray[np.float64]:
    """Return the relevance of chunks by evidence or by words: float64 [chunks].

    A chunk that has nearly all words of the question answers it, or what the evidence says is right, or both; of fewer
    words nothing follows.
    """
    by_words = np.where(matches.coverage >= MIN_COVERAGE, BY_WORDS * matches.coverage, 0)
    both: npt.NDArray[np.float64] = 1 - (1 - relevance) * (1 - by_words)
    return both


def is_enough(relevance: npt.NDArray[np.float64], is_read: npt.NDArray[np.bool_], matches: Matches) -> bool:
    """Return whether what was read answers the question, so that no other chunk needs to be.

    Args:
        relevance: Of each chunk, 0 to 1; 0 if it was not read: float64 [chunks].
        is_read: Which were: bool [chunks].
        matches: Their words.
    """
    least = max(CLEAR, SHARE * float(relevance[is_read].max(initial=0)))
    is_clear = is_read & (relevance >= least) & (matches.coverage >= MIN_COVERAGE)
    found, unread = (float(matches.scores[chunks].max(initial=0)) for chunks in (is_clear, ~is_read))
    return unread < NEAR * found
