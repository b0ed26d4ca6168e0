"""Asking a window of a document, which is read for it unless it is stored."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache
from ..prompt import Prompt
from ..prompt.window import Window
from ..store.windows import WindowStore
from .evidence import Evidence
from .windows import Excerpt


@dataclass(frozen=True)
class Answer:
    """Findings of a question in a window.

    Attributes:
        relevance: Of its chunks, 0 to 1.
        is_stored: Whether the window came from the store.
    """

    relevance: list[float]
    is_stored: bool


def ask_window(
    cache: KVCache,
    prompt: Prompt,
    around: Window,
    window: Excerpt,
    evidence: Evidence,
    n_queries: int,
    read: Callable[[list[int]], None],
    store: WindowStore | None = None,
) -> Answer:
    """Ask a window by itself.

    Args:
        cache: Loses what it has.
        prompt: Has the documents.
        around: What is read around a window of them.
        window: It.
        evidence: Says what the question finds.
        n_queries: Tokens that are probed at once.
        read: Brings tokens into the cache.
        store: Has windows that were read before, and takes this one.
    """
    tokens, cells = window.tokens(prompt, around)
    baseline, is_stored = bring_in(cache, tokens, evidence, read, store)
    read(evidence.tail(around))
    return Answer(evidence.relevance(cache, around, cells, n_queries, baseline), is_stored)


def bring_in(
    cache: KVCache,
    tokens: list[int],
    evidence: Evidence,
    read: Callable[[list[int]], None],
    store: WindowStore | None,
) -> tuple[npt.NDArray[np.float32], bool]:
    """Bring a window into the cache, from the store or by reading; return its baseline, and whether it was stored."""
    stored = store.load(cache, evidence.key, tokens) if store else None
    if stored is not None:
        return stored, True
    cache.clear()
    read(tokens)
    baseline = evidence.baseline(cache)
    if store:
        store.save(cache, evidence.key, baseline)
    return baseline, False
