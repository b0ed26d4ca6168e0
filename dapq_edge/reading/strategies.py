"""The three ways to read a prompt into an empty cache: full, chunked, skim.

All but the first need only the cells of the budget and a chunk, so that the full cache never exists.
"""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..cache.kv_cache import KVCache
from ..cells import CHUNK
from ..control import UNCONTROLLED, Control
from ..eviction.policies import Policy
from ..prompt import Prompt
from ..prompt.window import Window, ending_of, window_of
from ..store.windows import WindowStore
from .asking import ask_window, bring_in
from .choice import Chunk, choose
from .due import can_be_due
from .evidence import Evidence, Guess
from .lexical import Matches
from .order import combined, is_enough, reading_order
from .plan import Plan, ReadMode
from .windows import N_OVERLAP, Excerpt, excerpts, split

# given the tokens of a question and of some texts, it returns what they share
Search = Callable[[list[int], list[list[int]]], Matches]

# given the chunks of a document that was skimmed, it returns whether the most relevant ones are read
GoesOn = Callable[[Sequence[Chunk]], bool]


@dataclass(frozen=True)
class Skimming:
    """Ways to skim a document.

    Attributes:
        evidence: Says what a question finds in a window.
        search: Finds the words of a question, if they count.
        may_stop: Whether reading stops when what is asked for is found by its words; otherwise all windows are read.
        store: Has windows that were read before, and takes those that are.
        goes_on: Told all chunks when they were looked at, says whether the most relevant ones are read then. If not,
            the cache stays empty.
    """

    evidence: Evidence
    search: Search | None = None
    may_stop: bool = False
    store: WindowStore | None = None
    goes_on: GoesOn | None = None


@dataclass(frozen=True)
class Kept:
    """Cells that the last eviction kept.

    Attributes:
        n_cells: Cells.
        n_bytes: Bytes of them.
        attention: The share of the attention that they hold; None if nothing was evicted.
        seconds: What all evictions took.
    """

    n_cells: int = 0
    n_bytes: int = 0
    attention: float | None = None
    seconds: float = 0.0


# given the ending, the cells for an answer, and what evicts before the ending, it has that done when the answer has
# begun
PutOff = Callable[[list[int], int, Callable[[], Kept]], None]


class Reader(ABC):
    """Reads a prompt into an empty cache as planned; the logits of its last token stay in the context.

    Args:
        cache: Empty.
        policy: Evicts.
        plan: For this prompt and policy.
        control: Is told how many tokens are evaluated, and how many will be.
        skimming: How a document is skimmed.

    Attributes:
        chunks: Those of a document that was skimmed.
        n_windows: Windows of it that were read, and all of them.
        n_stored: Those of the former that came from the store.
        n_done: Tokens that were evaluated so far.
        kept: What the last eviction kept, when it is done.
        evict_seconds: What all evictions took so far.
    """

    def __init__(
        self,
        cache: KVCache,
        policy: Policy,
        plan: Plan,
        control: Control = UNCONTROLLED,
        skimming: Skimming | None = None,
    ) -> None:
        self.cache = cache
        self.policy = policy
        self.plan = plan
        self.skimming = skimming or Skimming(Guess())
        self.chunks: list[Chunk] = []
        self.n_windows = 0, 0
        self.n_stored = 0
        self.n_done = 0
        self.kept = Kept()
        self.evict_seconds = 0.0
        self._control = control
        self._n_total = 0

    def read(self, prompt: Prompt, put_off: PutOff | None = None) -> None:
        """Read and evict, and then read the generation prompt, so that the next turn begins with what is kept.

        Args:
            prompt: As it was planned.
            put_off: Takes the last eviction, if the policy looks ahead to an answer right behind the prompt.

        Raises `DapqError` if llama.cpp fails, and what `Policy.evict` and the control raise.
        """
        self._n_total = len(prompt)
        if not self._bring_in(prompt):
            return
        self.cache.pin(prompt.pinned)
        # behind an answer, its sources are probed, or it is evicted
        ending, n_answer = ending_of(prompt), self.plan.n_predict + self.policy.n_probe
        if put_off and ending == prompt.end and can_be_due(self.cache, self.policy, self.plan.n_keep):
            put_off(ending, n_answer, self._evict_last)
        else:
            with self.cache.before(ending, n_answer):
                self.kept = self._evict_last()
        self._read(prompt.end)

    def _evict_last(self) -> Kept:
        self._evict(self.policy, self.plan.n_keep)
        return Kept(*self.cache.used, self.cache.sequence.attention_kept, self.evict_seconds)

    @abstractmethod
    def _bring_in(self, prompt: Prompt) -> bool:
        """Read all but the generation prompt, until only the last eviction is left; return whether that was done."""

    def _read(self, tokens: list[int]) -> None:
        for start in range(0, len(tokens), CHUNK):
            part = tokens[start : start + CHUNK]
            self._control.check()
            self.cache.read(part)
            self.n_done += len(part)
            self._control.report(self.n_done, self._n_total)

    def _evict(self, policy: Policy, n_keep: int) -> None:
        start = time.perf_counter()
        policy.evict(self.cache, n_keep, self.plan.n_most)
        self.evict_seconds += time.perf_counter() - start


class FullReader(Reader):
    """Reads everything, then evicts: the peak is the full cache."""

    def _bring_in(self, prompt: Prompt) -> bool:
        self._read(prompt.text)
        return True


class ChunkedReader(Reader):
    """After each chunk, probes and evicts down to the budget."""

    def _bring_in(self, prompt: Prompt) -> bool:
        tokens, n_resident = prompt.text, self.plan.n_resident
        self.cache.pin(prompt.pinned)
        self._read(tokens[:n_resident])
        for part in split(range(n_resident, len(tokens)), self.plan.n_chunk):
            self._evict(self.policy.while_reading, self.plan.n_most)
            self._read(tokens[part.start : part.stop])
        return True


class SkimReader(Reader):
    """Asks each window of the document for itself, then reads the most relevant place of all."""

    def _bring_in(self, prompt: Prompt) -> bool:
        self.skim(prompt)
        if self.skimming.goes_on and not self.skimming.goes_on(self.chunks):
            return False
        self._read_chosen(prompt)
        return True

    def skim(self, prompt: Prompt) -> None:
        """Read the documents window by window, and see what the question finds in each, until that is enough.

        The cache is empty then. Raises as `read` does.
        """
        body, around = prompt.body, window_of(prompt)
        windows = self._windows = excerpts(list(map(len, prompt.documents)), self.plan.n_window, self.plan.n_chunk)
        chunks = [[Chunk(chunk.start, chunk.stop) for chunk in window.chunks] for window in windows]
        self.chunks = list(itertools.chain.from_iterable(chunks))
        # the chunks that are read are not known yet
        self._n_total = len(body) + len(windows) * (N_OVERLAP + len(around)) + self.plan.n_keep
        matches = self._match(body, around.asking)
        order = reading_order(_of_windows(matches, chunks)) if matches else range(len(windows))
        if self.skimming.store:
            self.skimming.store.catalog.begin()
        with self.skimming.evidence.depth(self.cache):
            for n_read, i in enumerate(order, start=1):
                self._ask(prompt, around, windows[i], chunks[i])
                self.n_windows = n_read, len(windows)
                if matches and self.skimming.may_stop and self._is_enough(matches):
                    break
        self.cache.clear()
        if matches:
            self._count_words(matches)

    def _match(self, body: list[int], question: list[int]) -> Matches | None:
        if self.skimming.search is None:
            return None
        # a sentence may stand in two chunks
        texts = [body[max(0, chunk.start - N_OVERLAP) : chunk.stop + N_OVERLAP] for chunk in self.chunks]
        return self.skimming.search(question, texts)

    def _count_words(self, matches: Matches) -> None:
        relevance = combined(np.array([chunk.relevance for chunk in self.chunks]), matches)
        for chunk, value, coverage in zip(self.chunks, relevance.tolist(), matches.coverage.tolist(), strict=True):
            chunk.relevance, chunk.coverage = value if chunk.is_skimmed else 0.0, coverage

    def _is_enough(self, matches: Matches) -> bool:
        relevance = np.array([chunk.relevance for chunk in self.chunks])
        return is_enough(relevance, np.array([chunk.is_skimmed for chunk in self.chunks]), matches)

    def _ask(self, prompt: Prompt, around: Window, window: Excerpt, chunks: list[Chunk]) -> None:
        """Ask a window of the documents."""
        self._control.check()
        n_queries, how = self.policy.n_probe, self.skimming
        found = ask_window(self.cache, prompt, around, window, how.evidence, n_queries, self._read, how.store)
        if found.is_stored:
            self.n_stored += 1
            self._n_total -= window.stop - window.start
        for chunk, relevance in zip(chunks, found.relevance, strict=True):
            chunk.relevance, chunk.is_skimmed = relevance, True

    def _read_chosen(self, prompt: Prompt) -> None:
        """Read what was chosen of the documents as one text, with all that stands around them."""
        text, body, plan = prompt.text, prompt.body_index, self.plan
        is_read = choose(prompt, self._windows, self.chunks, plan.n_body, plan.n_window)
        for chunk in self.chunks:
            chunk.is_read = bool(is_read[body[chunk.start : chunk.stop]].any())
        index = np.flatnonzero(is_read[: len(text)])
        tokens = np.array(text)[index].tolist()
        self._n_total = self.n_done + len(tokens) + prompt.n_end
        self._read(tokens[self._bring_in_window(prompt, tokens) :])
        self.cache.place(text, index)

    def _bring_in_window(self, prompt: Prompt, tokens: list[int]) -> int:
        """Bring in the window that is all that was chosen, and return how many of its tokens it has."""
        around, store = window_of(prompt), self.skimming.store
        for window in self._windows:
            first, _ = window.tokens(prompt, around)
            if tokens[: len(first)] == first and len(first) < len(tokens):
                _, is_stored = bring_in(self.cache, first, Guess(), self._read, store and store.exact)
                self._n_total -= len(first) if is_stored else 0
                return len(first)
        return 0


READERS: dict[ReadMode, type[Reader]] = {
    ReadMode.FULL: FullReader,
    ReadMode.CHUNKED: ChunkedReader,
    ReadMode.SKIM: SkimReader,
}


def _of_windows(matches: Matches, windows: Sequence[Sequence[Chunk]]) -> list[float]:
    """Return the best score of the chunks of each window."""
    borders = np.cumsum([0, *map(len, windows)]).tolist()
    return [float(matches.scores[start:stop].max()) for start, stop in itertools.pairwise(borders)]
