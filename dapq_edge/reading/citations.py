"""Citations: the passages of a document that the sentences of an answer were read from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache
from ..eviction.heads import HeadProfile
from ..prompt.places import Place, find_place
from .citing import attention_of
from .passages import N_PASSAGE, passages

# a sentence whose passage is attended to less was written without it; see docs/results.md, "Citations"
MIN_WEIGHT = 0.1

# a second passage that is attended to as much is a source of the sentence, too: it was put together from both
MIN_SECOND = 0.3

# tokens that are read together: words around the one that is copied are attended to, too
N_TOGETHER = 13


@dataclass(frozen=True)
class Citation:
    """A passage that a sentence of an answer was read from.

    Attributes:
        sentence: First character of the sentence in the answer, and the one behind its last; white space before the
            answer does not count.
        start: First character of the passage in the document.
        stop: The one behind its last.
        tokens: Those of the prompt that spell it.
        weight: The largest attention to one of them, mean of the heads that copy best: 0 to 1.
    """

    sentence: tuple[int, int]
    start: int
    stop: int
    tokens: range
    weight: float


def cite(
    cache: KVCache,
    heads: HeadProfile | None,
    pieces: Sequence[bytes],
    n_prompt: int,
    document: str,
    pages: Sequence[tuple[int, int]] = (),
) -> list[Citation]:
    """Return the passages that an answer was read from: of each of its sentences one, two or none.

    A sentence that was put together from two places has two, the one that was read most first. One that was written
    before the last eviction is not seen any more, and has none.

    Args:
        cache: Holds the prompt and the answer; it is left as it was.
        heads: The head profile, if there is one.
        pieces: Bytes of each token of its text.
        n_prompt: Tokens before the answer.
        document: A text of the prompt.
        pages: First character of each page of it, and the one behind its last: only these are cited, and no passage
            goes across; none for all of it.

    Raises as `KVCache.probe` does.
    """
    answer = b"".join(pieces[n_prompt:]).decode("utf-8", "replace").strip()
    place, written = find_place(pieces[:n_prompt], document), find_place(pieces[n_prompt:], answer)
    if place is None or written is None:
        return []
    found, is_cited = [], _inside(place, pages or [(0, len(document))])
    for start, stop in passages(answer):
        tokens = written.tokens_of(start, stop)
        seen = attention_of(cache, heads, range(n_prompt + tokens.start, n_prompt + tokens.stop))
        seen = seen[place.tokens.start : place.tokens.stop] * is_cited
        for least in (MIN_WEIGHT, MIN_SECOND):
            token, weight = strongest(seen)
            if weight < least:
                break
            first, last = _around(document, int(place.starts[token]), pages)
            spelling = place.tokens_of(first, last)
            found.append(Citation((start, stop), first, last, spelling, weight))
            seen[spelling.start - place.tokens.start : spelling.stop - place.tokens.start] = 0
    return found


def strongest(seen: npt.NDArray[np.float32]) -> tuple[int, float]:
    """Return the token that is attended to most among those that are attended to most together, and how much.

    Args:
        seen: Attention to each token: float32 [tokens].
    """
    together = np.convolve(seen, np.ones(N_TOGETHER), "full")[N_TOGETHER // 2 :][: len(seen)]
    first = max(0, int(together.argmax()) - N_TOGETHER // 2)
    token = first + int(seen[first : first + N_TOGETHER].argmax())
    return token, float(seen[token])


def _inside(place: Place, pages: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Return which tokens of a place are of a page: bool [tokens]."""
    is_inside = np.zeros(len(place.tokens), dtype=bool)
    for start, stop in pages:
        tokens = place.tokens_of(start, stop)
        is_inside[tokens.start - place.tokens.start : tokens.stop - place.tokens.start] = True
    return is_inside


def _around(document: str, place: int, pages: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the passage around a character of a document."""
    start, stop = next(((start, stop) for start, stop in pages if start <= place < stop), (0, len(document)))
    # further away, nothing matters
    start, stop = max(start, place - 4 * N_PASSAGE), min(stop, place + 4 * N_PASSAGE)
    spans = passages(document[start:stop])
    first, last = next(
        (span for span in spans if span[0] <= place - start < span[1]), (place - start, place - start + 1)
    )
    return start + first, start + last
