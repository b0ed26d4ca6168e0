"""Costs of reading, and memory that a sequence takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache
from ..cache.sequence import Sequence as Ledger
from ..control import Control
from ..counts import count, have
from ..errors import DapqError
from ..eviction.heads import HeadProfile
from ..eviction.policies import Policy
from ..prompt import QUESTION, Prompt
from ..prompt.extent import extent_of
from ..prompt.paragraphs import level_of
from .choice import MIN_FOUND, Chunk
from .plan import Plan, ReadMode
from .strategies import READERS, Kept, PutOff, Skimming

# the best chunk of a document with an answer has a larger share of the question's words, if it is not relevant; chosen
# on one half of the questions, see docs/results.md, "What is not there"
MIN_WORDS = 0.35

# the most relevant chunks, in which these words count: somewhere in a long text stand some of any question's
N_BEST = 5

# chunks of the texts on which `MIN_FOUND` was chosen: the best of more of them is more relevant where nothing is found
N_CHOSEN = 12


@dataclass(frozen=True)
class ReadStats:
    """Costs of reading a prompt.

    Attributes:
        mode: See `ReadMode`.
        is_compact: Whether positions count only the tokens that were read after skimming.
        chunks: Those of a document that was skimmed.
        body_index: Which tokens of the prompt are of documents, those that chunks count: integers, ascending.
        n_windows: Windows of it that were looked at, and all of them: what was asked for was found before the others.
        n_stored: Those of the former that were read before, and came from the store.
        faults: What went wrong with the store, one line each.
        tokens_evaluated: With the chunks that were read twice and their questions.
        n_predict: Tokens of the answer at most.
        cells_peak: Cells of the context while it was read, used or free.
        cells_kept: Of the prompt, after eviction; 0 if it was only skimmed, see `Skimming.goes_on`.
        n_unpinned: Tokens of the system message and of the request that had no room to be pinned.
        bytes_peak: K and V of `cells_peak`.
        bytes_kept: K and V of `cells_kept`.
        attention_kept: The share of the attention that the kept cells hold; None if nothing was evicted.
        evict_seconds: What all evictions took.
        seconds: All of it.
    """

    mode: ReadMode
    is_compact: bool
    chunks: list[Chunk]
    body_index: npt.NDArray[np.intp]
    n_windows: tuple[int, int]
    n_stored: int
    faults: list[str]
    tokens_evaluated: int
    n_predict: int
    cells_peak: int
    cells_kept: int
    n_unpinned: int
    bytes_peak: int
    bytes_kept: int
    attention_kept: float | None
    evict_seconds: float
    seconds: float

    def after(self, kept: Kept) -> "ReadStats":
        """Return the same reading, when an eviction that was put off is done."""
        return replace(
            self,
            cells_kept=kept.n_cells,
            bytes_kept=kept.n_bytes,
            attention_kept=kept.attention,
            evict_seconds=kept.seconds,
            seconds=self.seconds + kept.seconds - self.evict_seconds,
        )


@dataclass(frozen=True)
class Usage:
    """Memory that the sequence takes now, and counts of what was done since the model was opened.

    Attributes:
        n_tokens: Of the text.
        n_cells_used: Cells of the sequence.
        n_cells: Cells of the context.
        bytes_used: K and V of the sequence.
        bytes_allocated: K and V of the context.
        n_evictions: Prompts and conversations that were evicted.
        n_rereads: Prompts that were read again, because what was kept did not serve a new question, or because they
            differ within what was evicted, or do not fit behind what is there.
        n_unpinned: Tokens of the last system message and request that have no room to be pinned, and may be evicted.
        n_windows: Windows of a document that were looked at for the last prompt, and all of them.
        n_stored: Those of the former that were read before, and came from the store.
        faults: What went wrong with the store then, one line each.
        attention_kept: The share of the attention that the cells of the last eviction hold.
    """

    n_tokens: int
    n_cells_used: int
    n_cells: int
    bytes_used: int
    bytes_allocated: int
    n_evictions: int
    n_rereads: int
    n_unpinned: int
    n_windows: tuple[int, int]
    n_stored: int
    faults: list[str]
    attention_kept: float | None


@dataclass(frozen=True)
class Unsettled:
    """Ledger and costs of a prompt, as they are told before an eviction that is due.

    Attributes:
        sequence: The ledger, with the tokens of the answer.
        read: Costs as `Engine.last_read` has them; those of an eviction that is due are not known.
        n_windows: As `Usage` has them.
    """

    sequence: Ledger
    read: ReadStats | None
    n_windows: tuple[int, int]


def room_warning(n_unpinned: int) -> DapqError | None:
    """Return what to say if some of the request had no room to be pinned."""
    if not n_unpinned:
        return None
    return DapqError(
        f"{count(n_unpinned, 'token')} of the system message and the request {have(n_unpinned)} no room in half of the "
        "cells that are kept, and may be evicted: raise `kv_budget`"
    )


def skip_note(n_windows: tuple[int, int]) -> str | None:
    """Return what to say if a part of a document was not looked at."""
    n_read, n_all = n_windows
    if n_read == n_all:
        return None
    return f"looked at {n_read:,} of {count(n_all, 'window')}, where the words of the question stand"


def absent_note(chunks: Sequence[Chunk], request: str) -> str | None:
    """Return what to say if nothing in a document that was skimmed is clearly about a question.

    A request that asks no question ("Summarize it."), or for all of a document, is about no place of it.
    """
    if not chunks or is_found(chunks) or level_of(request) < QUESTION or extent_of(request) is not None:
        return None
    return "nothing in the document is clearly about this question: the answer may not be from it"


def is_found(chunks: Sequence[Chunk]) -> bool:
    """Return whether one of the chunks of a document that was skimmed is clearly about what was asked.

    Relevance is how likely a chunk answers; of more chunks than `N_CHOSEN`, each is less likely the one that does.
    """
    best = sorted(chunks, key=lambda chunk: -chunk.relevance)[:N_BEST]
    if any(chunk.coverage >= MIN_WORDS for chunk in best):
        return True
    prior = min(1.0, N_CHOSEN / max(1, sum(chunk.is_skimmed for chunk in chunks)))
    # odds, as a relevance of 1 has no finite ones
    return best[0].relevance * prior * (1 - MIN_FOUND) >= MIN_FOUND * (1 - best[0].relevance)


def part_note(request: str, is_partial: bool) -> str | None:
    """Return what to say if a question asks for all of a document, and only a part of it was read for the answer."""
    if not is_partial or extent_of(request) is None:
        return None
    return "this asks for all of the document, and is answered from a part of it"


def guess_note(n_windows: tuple[int, int], heads: HeadProfile | None) -> str | None:
    """Return what to say if a document was skimmed without query heads."""
    if not n_windows[1] or (heads is not None and heads.query):
        return None
    return "no query heads of this model are known: all of the document was looked at, by a guess at the answer"


def store_note(n_stored: int) -> str | None:
    """Return what to say if some of a document was not read again."""
    return f"windows from the store: {n_stored:,}" if n_stored else None


def read_as_planned(
    cache: KVCache,
    prompt: Prompt,
    policy: Policy,
    plan: Plan,
    control: Control,
    skimming: Skimming,
    put_off: PutOff | None = None,
) -> ReadStats:
    """Read a prompt into an empty cache as planned, and say what it cost so far. Raises as `Reader.read` does."""
    start = time.perf_counter()
    cells_peak, bytes_peak = cache.allocated
    reader = READERS[plan.mode](cache, policy, plan, control, skimming)
    reader.read(prompt, put_off)
    return ReadStats(
        mode=plan.mode,
        is_compact=cache.sequence.n_skipped > 0,
        chunks=reader.chunks,
        body_index=prompt.body_index,
        n_windows=reader.n_windows,
        n_stored=reader.n_stored,
        faults=skimming.store.catalog.take_faults() if skimming.store else [],
        tokens_evaluated=reader.n_done,
        n_predict=plan.n_predict,
        cells_peak=cells_peak,
        cells_kept=reader.kept.n_cells,
        n_unpinned=prompt.n_unpinned,
        bytes_peak=bytes_peak,
        bytes_kept=reader.kept.n_bytes,
        attention_kept=reader.kept.attention,
        evict_seconds=reader.evict_seconds,
        seconds=time.perf_counter() - start,
    )
