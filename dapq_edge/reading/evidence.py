"""Evidence: what a question finds in the chunks of a window, and by which heads that is seen."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache
from ..cells import MIN_BATCH
from ..eviction.heads import HeadProfile, QueryHead
from ..llamacpp.native import ProbeType
from ..prompt.window import Window
from .relevance import ask

# a question without content
NEUTRAL = "N/A"

# cells of a chunk that count: those to which the question attends more than another one would
N_CELLS = 4

# less attention than this is none
MIN_ATTENTION = 1e-3

# last tokens of a question that are probed, at most: one batch, whatever its size
N_PROBED = MIN_BATCH

# heads that are asked, of those that tell best
N_HEADS = 2

# a chunk that stands out by `MIDDLE` standard deviations answers as likely as not; how fast it gets surer behind that
MIDDLE, SLOPE = 1.9, 2.1


class Evidence(ABC):
    """Way to ask a window of a document."""

    key: str
    """Says what a window must have been read for, so that it can be asked."""

    @abstractmethod
    def depth(self, cache: KVCache) -> AbstractContextManager[None]:
        """Evaluate windows only as deep as they are looked at."""

    @abstractmethod
    def baseline(self, cache: KVCache) -> npt.NDArray[np.float32]:
        """Return what a window that was just read shows before any question: float32 [heads, cells], or empty."""

    @abstractmethod
    def tail(self, around: Window) -> list[int]:
        """Return what is read behind a window before it is asked."""

    @abstractmethod
    def relevance(
        self,
        cache: KVCache,
        around: Window,
        chunks: Sequence[slice],
        n_queries: int,
        baseline: npt.NDArray[np.float32],
    ) -> list[float]:
        """Return how relevant some of its cells are to the question, 0 to 1.

        Args:
            cache: It has read a window, and `tail`.
            around: The window's surroundings, with the question.
            chunks: Cells that are judged together.
            n_queries: Tokens that are probed at once.
            baseline: Of the window.
        """


class Guess(Evidence):
    """Attention of the question, and of a guess at the answer, of the heads that copy facts.

    For models without query heads.

    Args:
        heads: A head profile without query heads, if there is one.
    """

    key = "all layers"

    def __init__(self, heads: HeadProfile | None = None) -> None:
        self._heads = heads

    def depth(self, cache: KVCache) -> AbstractContextManager[None]:
        return nullcontext()

    def baseline(self, cache: KVCache) -> npt.NDArray[np.float32]:
        return np.empty((0, 0), dtype=np.float32)

    def tail(self, around: Window) -> list[int]:
        return around.tail

    def relevance(
        self,
        cache: KVCache,
        around: Window,
        chunks: Sequence[slice],
        n_queries: int,
        baseline: npt.NDArray[np.float32],
    ) -> list[float]:
        found = ask(cache, around.question, self._heads, n_queries)
        return [found.relevance(cells) for cells in chunks]


class QueryHeads(Evidence):
    """Attention of the question, against that of a question without content, of the heads that tell what answers.

    QRHead (arXiv 2506.09944) chooses heads by real questions; in-context re-ranking (arXiv 2410.02642) subtracts what a
    content-free question attends to.

    Args:
        heads: Those that tell best, the best one first.
        neutral: Tokens of a question without content.
    """

    def __init__(self, heads: Sequence[QueryHead], neutral: Sequence[int]) -> None:
        self._heads = heads[:N_HEADS]
        self._neutral = list(neutral)
        self._n_layers = n_layers_asked(self._heads)
        asked = [(head.layer, head.head) for head in self._heads]
        self.key = f"{self._n_layers} layers, heads {asked}, against {self._neutral}"

    def depth(self, cache: KVCache) -> AbstractContextManager[None]:
        return cache.first_layers(self._n_layers)

    def baseline(self, cache: KVCache) -> npt.NDArray[np.float32]:
        return self._attention(cache, self._neutral)

    def tail(self, around: Window) -> list[int]:
        # what has no room in the probe is read
        return around.before + around.asking[:-N_PROBED]

    def relevance(
        self,
        cache: KVCache,
        around: Window,
        chunks: Sequence[slice],
        n_queries: int,
        baseline: npt.NDArray[np.float32],
    ) -> list[float]:
        asked = self._attention(cache, around.asking[-N_PROBED:])
        means, stds = (np.array([getattr(head, name) for head in self._heads]) for name in ("mean", "std"))
        return [likelihood(float(((evidence(asked, baseline, cells) - means) / stds).mean())) for cells in chunks]

    def _attention(self, cache: KVCache, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        seen = {layer.layer: layer.attention for layer in cache.probe(tokens, cache.next_position, ProbeType.MAX)}
        return np.stack([seen[head.layer][head.head] for head in self._heads])


def n_layers_asked(heads: Sequence[QueryHead]) -> int:
    """Return the first layers that windows are read to: up to the last query head that is asked, of those that tell."""
    return 1 + max(head.layer for head in heads[:N_HEADS])


def evidence(asked: npt.NDArray[np.float32], other: npt.NDArray[np.float32], cells: slice) -> npt.NDArray[np.float32]:
    """Return how much more each head attends to `cells` for a question than for one without content: float32 [heads].

    That is the mean of the `N_CELLS` largest logarithms of the ratio.

    Args:
        asked: Of the question: float32 [heads, cells].
        other: Of the other one.
        cells: Some of them.
    """
    ratio = np.log((asked[:, cells] + MIN_ATTENTION) / (other[:, cells] + MIN_ATTENTION))
    n = min(N_CELLS, ratio.shape[1])
    mean: npt.NDArray[np.float32] = np.partition(ratio, -n, axis=1)[:, -n:].mean(axis=1)
    return mean


def likelihood(deviation: float) -> float:
    """Return how likely a chunk answers whose evidence is so many standard deviations above that of others, 0 to 1."""
    return float(1 / (1 + np.exp(-SLOPE * (deviation - MIDDLE))))
