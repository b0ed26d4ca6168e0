"""Windows of a document, which are read by themselves, and the chunks of them that are judged."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from ..cache.kv_cache import KVCache
from ..prompt import Prompt
from ..prompt.window import Window

# tokens that are relevant together, or not, at most
N_SPAN = 205

# tokens behind a window that are read with it, and tokens around a chunk in which the words of a question are looked
# for: a sentence may stand on a border, and any question attends to what is just before it
N_OVERLAP = 32


def split(tokens: range, n_max: int) -> list[range]:
    """Return parts of at most `n_max` tokens, of about the same size."""
    borders = np.linspace(tokens.start, tokens.stop, -(-len(tokens) // n_max) + 1).astype(int).tolist()
    return [range(start, stop) for start, stop in itertools.pairwise(borders)]


def windows_of(n_tokens: int, n_window: int, n_chunk: int = N_SPAN) -> list[list[range]]:
    """Return the windows of `n_tokens` tokens, each as its chunks.

    Args:
        n_tokens: Those of the documents.
        n_window: Tokens that are read at once, at most, with those behind the window.
        n_chunk: Tokens of a chunk, at most.
    """
    return [split(window, min(n_chunk, N_SPAN)) for window in split(range(n_tokens), n_window - N_OVERLAP)]


def read_window(
    cache: KVCache,
    prompt: Prompt,
    around: Window,
    chunks: Sequence[range],
    tail: list[int],
    read: Callable[[list[int]], None],
) -> list[slice]:
    """Read a window of the documents into the emptied cache, with some tokens behind it; return its chunks' cells.

    Args:
        cache: Loses what it has.
        prompt: Has the documents.
        around: What is read before the window.
        chunks: Those of the window; the last one gets the cells of the tokens behind it, too.
        tail: What is read then.
        read: Brings tokens into the cache.
    """
    start, stop = chunks[0].start, min(chunks[-1].stop + N_OVERLAP, len(prompt.body))
    before = around.head + prompt.header_of(start)
    cache.clear()
    read(before + prompt.body[start:stop] + tail)
    first = len(before) - start
    cells = [slice(first + chunk.start, first + chunk.stop) for chunk in chunks]
    return [*cells[:-1], slice(cells[-1].start, first + stop)]
