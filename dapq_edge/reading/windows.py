"""Windows of a document, which are read by themselves, and the chunks of them that are judged."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..prompt import Prompt
from ..prompt.window import Window

# tokens that are relevant together, or not, at most
N_SPAN = 205

# tokens behind a window that are read with it, and tokens around a chunk in which the words of a question are looked
# for: a sentence may stand on a border, and any question attends to what is just before it
N_OVERLAP = 32

# tokens of a window at most, so that questions of other lengths, and other budgets, have the same windows
SIZES = (768, 512, 384, 256, 192, 128, 96, 64, 48, 32)


@dataclass(frozen=True)
class Excerpt:
    """Window of the documents, that is read by itself.

    Attributes:
        chunks: Tokens of the documents that are judged together.
        stop: The token behind the last one that is read.
    """

    chunks: list[range]
    stop: int

    @property
    def start(self) -> int:
        """The first token."""
        return self.chunks[0].start

    def tokens(self, prompt: Prompt, around: Window) -> tuple[list[int], list[slice]]:
        """Return what is read of a prompt, and where its chunks are; the last one gets what is behind it, too."""
        before = around.head + prompt.header_of(self.start)
        first = len(before) - self.start
        cells = [slice(first + chunk.start, first + chunk.stop) for chunk in self.chunks]
        return before + prompt.body[self.start : self.stop], [*cells[:-1], slice(cells[-1].start, first + self.stop)]


def excerpts(lengths: Sequence[int], n_window: int, n_chunk: int = N_SPAN) -> list[Excerpt]:
    """Return the windows of documents: of one of them, or of small ones that stand side by side.

    Args:
        lengths: Tokens of each document.
        n_window: Tokens that are read at once, at most, with those behind the window.
        n_chunk: Tokens of a chunk, at most.
    """
    size = next((size for size in SIZES if size <= n_window - N_OVERLAP), SIZES[-1])
    groups = itertools.groupby(lengths, key=lambda length: length < size // 2)
    ends = itertools.chain.from_iterable([sum(some)] if is_small else some for is_small, some in groups)
    made = []
    for start, stop in itertools.pairwise(itertools.accumulate(ends, initial=0)):
        # from the start on, so that a text that goes on has the same ones
        for first in range(start, stop, size):
            last = min(first + size, stop)
            made.append(Excerpt(split(range(first, last), min(n_chunk, N_SPAN)), min(last + N_OVERLAP, stop)))
    return made


def split(tokens: range, n_max: int) -> list[range]:
    """Return parts of at most `n_max` tokens, of about the same size."""
    borders = np.linspace(tokens.start, tokens.stop, -(-len(tokens) // n_max) + 1).astype(int).tolist()
    return [range(start, stop) for start, stop in itertools.pairwise(borders)]
