"""Choice of what is read of the documents after skimming."""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..prompt import Prompt
from .windows import N_OVERLAP, Excerpt

# a chunk is read if it has this share of the relevance of the best one; chosen on the calibration half of the questions
# and on three facts, see docs/results.md, "Three facts"
MIN_SHARE = 0.3

# where nothing is more relevant, a window around the best chunk finds more than parts of several
MIN_RELEVANT = 0.05

# the best chunk of a document with an answer is more relevant; chosen on one half of the questions, see
# docs/results.md, "What is not there"
MIN_FOUND = 0.25


@dataclass
class Chunk:
    """Tokens `start` to `stop` (exclusive) of a document.

    Attributes:
        start: The first one.
        stop: The one behind the last.
        relevance: How much the question finds in them, 0 to 1, see `Evidence`.
        coverage: The share of its words that stand there, see `Matches`; 0 if words do not count.
        is_skimmed: Whether they were looked at; otherwise what was asked for was found before.
        is_read: Whether any of them was read after skimming.
    """

    start: int
    stop: int
    relevance: float = 0.0
    coverage: float = 0.0
    is_skimmed: bool = False
    is_read: bool = False


def choose(
    prompt: Prompt, windows: Sequence[Excerpt], chunks: Sequence[Chunk], n_body: int, n_window: int
) -> npt.NDArray[np.bool_]:
    """Choose relevant chunks, then what is just around them, then a window around the best one: bool [tokens].

    Each as far as it fits, the most relevant first; the window only if all that is chosen has no more tokens than it
    may. Beside it, what stands around the documents is read. If one of the windows that were skimmed has all that is
    relevant, with what is just around it, it is that; where nothing is, the window is around the best chunk.

    Args:
        prompt: Its documents were skimmed.
        windows: In which they were.
        chunks: Of its documents.
        n_body: Tokens of documents that are read, at most.
        n_window: Tokens of the window, at most.
    """
    body, best = prompt.body_index, max(chunks, key=lambda chunk: chunk.relevance)
    is_read = np.zeros(len(prompt), dtype=bool)
    is_read[prompt.around_index] = True

    def with_tokens(start: int, stop: int) -> npt.NDArray[np.bool_]:
        more = is_read.copy()
        more[body[max(0, start) : stop]] = True
        return prompt.with_headers(more)

    def n_tokens(more: npt.NDArray[np.bool_]) -> int:
        return int(more[body].sum())

    least = max(MIN_RELEVANT, MIN_SHARE * best.relevance)
    relevant = sorted((chunk for chunk in chunks if chunk.relevance >= least), key=lambda chunk: -chunk.relevance)
    found = holding(prompt, windows, relevant)
    if found:
        more = with_tokens(found.start, found.stop)
        if n_tokens(more) <= n_body:
            return more
    for n_around in (0, N_OVERLAP):
        for chunk in relevant:
            more = with_tokens(chunk.start - n_around, chunk.stop + n_around)
            if n_tokens(more) <= n_body:
                is_read = more
    # what nothing asks for is read only as far as a window goes
    n_most = min(n_body, max(n_window, n_tokens(is_read)))
    sizes = range(min(n_window, len(body)) + 1)
    n_widest = bisect.bisect_right(sizes, n_most, key=lambda n: n_tokens(with_tokens(*window(best, n, len(body)))))
    return with_tokens(*window(best, n_widest - 1, len(body)))


def holding(prompt: Prompt, windows: Sequence[Excerpt], chunks: Sequence[Chunk]) -> Excerpt | None:
    """Return the window that has some chunks and what is just around them, if there is one; none has no chunks."""
    if not chunks:
        return None
    borders = {0, *itertools.accumulate(map(len, prompt.documents))}
    start, stop = min(chunk.start for chunk in chunks), max(chunk.stop for chunk in chunks)
    for found in windows:
        # what is just behind its last chunk is in it, or the text ends there
        if found.start <= start - (0 if start in borders else N_OVERLAP) and stop <= found.chunks[-1].stop:
            return found
    return None


def window(chunk: Chunk, size: int, n_body: int) -> tuple[int, int]:
    """Return the first of `size` tokens around a chunk, and the one behind the last; as many at an end of the text."""
    start = min(max(0, (chunk.start + chunk.stop) // 2 - size // 2), n_body - size)
    return start, start + size
