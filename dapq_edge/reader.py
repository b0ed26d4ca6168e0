"""Reading: a prompt of any length within budget + chunk cells, so that the full cache never exists.

- all: read everything, then evict (the peak is the full cache);
- one pass: after each chunk, probe and evict down to the budget;
- skim, then read: ask each window of the text for itself, then read the most relevant place of all, and evict.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from .budgets import Budget
from .cache import KVCache
from .errors import TooLongError, UsageError
from .policies import Policy
from .recall import N_LOOK_AHEAD, recall

# cells beside the budget: a chunk of the text, and the probe after it
CHUNK = 512

# cells used at most to skim, where a larger cache takes more time than fewer questions save
N_SKIM = 1024

# beside what is around the best chunk, a chunk is read if it is at least half as relevant
MIN_RELEVANCE = 0.5

Progress = Callable[[int, int], None]


class Way(str, Enum):
    ALL = "all"
    ONE_PASS = "one pass"
    SKIM = "skim, then read"


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt: what comes before a document (not nothing), the document, and the question after it.

    has_question: whether `tail` says what is wanted of the document.
    """

    head: list[int]
    body: list[int]
    tail: list[int]
    has_question: bool = True

    @property
    def tokens(self) -> list[int]:
        return self.head + self.body + self.tail

    def __len__(self) -> int:
        return len(self.head) + len(self.body) + len(self.tail)


@dataclass
class Chunk:
    """Tokens `start` to `stop` (exclusive) of a document.

    relevance: how much the question attends to them, and a guess at the answer, which counts as much as the model is
    sure of it; 0 to 1. is_read: whether any of them was read after skimming.
    """

    start: int
    stop: int
    relevance: float = 0.0
    is_read: bool = False


@dataclass(frozen=True)
class Plan:
    """How a prompt is read.

    n_keep: cells that it keeps; n_most: that it keeps at most where eviction would hurt; n_resident: the same in the
    layer that keeps most; n_cells: cells that the context needs; n_predict: tokens of the answer at most.
    n_positions: positions that the prompt takes; when it is skimmed, they count only the tokens that are read then.
    n_window: tokens that are skimmed together; n_body: tokens of the document that are read at most after skimming.
    """

    way: Way
    n_keep: int
    n_most: int
    n_resident: int
    n_cells: int
    n_predict: int
    n_positions: int
    n_window: int
    n_body: int


def plan(
    prompt: Prompt,
    policy: Policy,
    budget: Budget,
    *,
    n_predict: int,
    n_ctx_train: int,
    one_shot: bool = False,
    allow_overflow: bool = False,
) -> Plan:
    """Choose the way to read a prompt and to answer it with `n_predict` tokens.

    A prompt that fits the budget and a chunk is read at once. A share of a prompt that is skimmed is at most what the
    model sees at once. Raises `UsageError` if the budget is too small for the policy or for the question, and
    `TooLongError` if positions go beyond `n_ctx_train`.
    """
    n_prompt, n_keep = len(prompt), policy.cells_to_keep(budget, len(prompt))
    skims = policy.skims and prompt.has_question and not one_shot
    n_most = max(n_keep, min(n_prompt, budget.n_most))
    if skims and (budget.is_share or budget.n_most) and n_prompt >= n_ctx_train and not allow_overflow:
        # a share of a long document, or what the machine has room for, can be more than the model sees at once
        n_seen = int((n_ctx_train - CHUNK - min(n_predict, n_ctx_train // 4)) / policy.max_share)
        n_keep, n_most = min(n_keep, max(n_seen, CHUNK)), min(n_most, max(n_seen, CHUNK))
    n_resident = min(n_prompt, math.ceil(n_most * policy.max_share))
    n_branch = policy.n_branch(n_keep) if n_keep < n_prompt else 0
    n_chunk, n_asked = CHUNK - policy.n_probe, len(prompt.head) + len(prompt.tail)
    if one_shot or n_prompt <= n_resident + n_chunk:
        way, n_reading = Way.ALL, n_prompt + (policy.n_probe if n_keep < n_prompt else 0)
    elif policy.reads_in_chunks:
        way, n_reading = Way.SKIM if skims else Way.ONE_PASS, n_resident + CHUNK
    else:
        raise UsageError(f"--policy {policy.name} cannot read in bounded memory: set --one-shot")
    n_cells = max(n_reading + n_branch, n_resident + n_predict)
    # skimming needs the question, the look-ahead and its probe beside the text
    n_beside = n_asked + 2 * N_LOOK_AHEAD
    if way == Way.SKIM and n_beside > n_keep:
        raise UsageError(f"the question has {n_asked:,} tokens: set --kv-budget to {n_beside} cells or more")
    n_body = n_resident + n_chunk - n_asked
    n_window = min(n_body, max(N_SKIM - n_beside, CHUNK))
    n_positions = n_resident + n_chunk if way == Way.SKIM else n_prompt
    if n_positions >= n_ctx_train and not allow_overflow:
        remedy = "lower --kv-budget" if way == Way.SKIM else "shorten the document"
        raise TooLongError(
            f"{n_positions:,} tokens are read at once, but the model was trained for {n_ctx_train:,}: "
            f"{remedy}, or set --allow-overflow to go beyond"
        )
    n_predict = n_predict if allow_overflow else min(n_predict, n_ctx_train - n_positions)
    return Plan(way, n_keep, n_most, n_resident, n_cells, n_predict, n_positions, n_window, n_body)


class Reader:
    """Reads a prompt into an empty cache as planned; the logits of its last token stay in the context.

    `progress` is called with the tokens that were evaluated so far, and with all that will be.
    """

    def __init__(self, cache: KVCache, policy: Policy, plan: Plan, progress: Progress) -> None:
        self.cache = cache
        self.policy = policy
        self.plan = plan
        self.chunks: list[Chunk] = []
        self._progress = progress
        self.n_done, self._n_total = 0, 0
        self.evict_seconds = 0.0
        self.held: float | None = None
        # which token of the prompt each token in the cache is
        self.places: npt.NDArray[np.intp] = np.arange(0)

    def read(self, prompt: Prompt) -> None:
        """Read and evict. Raises `DapqError` if llama.cpp fails, and what `Policy.evict` raises."""
        self._n_total = len(prompt)
        self.places = np.arange(len(prompt))
        if self.plan.way == Way.SKIM:
            self._skim(prompt)
            self._read_chosen(prompt)
        elif self.plan.way == Way.ONE_PASS:
            self._read_in_one_pass(prompt.tokens)
        else:
            self._read(prompt.tokens)
        self.held = self._evict(self.policy, self.plan.n_keep)

    def _read(self, tokens: list[int]) -> None:
        for start in range(0, len(tokens), CHUNK):
            part = tokens[start : start + CHUNK]
            self.cache.read(part)
            self.n_done += len(part)
            self._progress(self.n_done, self._n_total)

    def _evict(self, policy: Policy, n_keep: int) -> float | None:
        start = time.perf_counter()
        share = policy.evict(self.cache, n_keep, self.plan.n_most)
        self.evict_seconds += time.perf_counter() - start
        return share

    def _read_in_one_pass(self, tokens: list[int]) -> None:
        n_resident = self.plan.n_resident
        self._read(tokens[:n_resident])
        for part in _split(range(n_resident, len(tokens)), CHUNK - self.policy.n_probe):
            self._evict(self.policy.while_reading, self.plan.n_most)
            self._read(tokens[part.start : part.stop])

    def _skim(self, prompt: Prompt) -> None:
        """Ask the document piece by piece: read it with the question, look ahead, and see what both attend to."""
        n_head, n_asked = len(prompt.head), len(prompt.head) + len(prompt.tail)
        windows = [
            [Chunk(part.start, part.stop) for part in _split(window, CHUNK - self.policy.n_probe)]
            for window in _split(range(len(prompt.body)), self.plan.n_window)
        ]
        self.chunks = [chunk for window in windows for chunk in window]
        # the chunks that are read are not known yet
        self._n_total = len(prompt.body) + len(windows) * n_asked + self.plan.n_keep
        for window in windows:
            start, stop = window[0].start, window[-1].stop
            self.cache.clear()
            self._read(prompt.head + prompt.body[start:stop] + prompt.tail)
            found = recall(self.cache, prompt.tail[-self.policy.n_probe :], self.policy.heads)
            for chunk in window:
                chunk.relevance = found.relevance(slice(n_head + chunk.start - start, n_head + chunk.stop - start))
        self.cache.clear()

    def _read_chosen(self, prompt: Prompt) -> None:
        """Read what was chosen of the document as one text, with the question."""
        chosen = self._choose(len(prompt.body))
        head, tail = (np.ones(len(part), dtype=bool) for part in (prompt.head, prompt.tail))
        self.places = np.flatnonzero(np.concatenate([head, chosen, tail]))
        tokens = np.array(prompt.tokens)[self.places].tolist()
        self._n_total = self.n_done + len(tokens)
        self._read(tokens)

    def _choose(self, n_body: int) -> npt.NDArray[np.bool_]:
        """Choose a window around the most relevant chunk, then relevant chunks as long as they fit: bool [n_body]."""
        ranked, n_window = sorted(self.chunks, key=lambda chunk: -chunk.relevance), self.plan.n_window
        middle = (ranked[0].start + ranked[0].stop) // 2
        start = min(max(0, middle - n_window // 2), n_body - n_window)
        is_chosen = np.zeros(n_body, dtype=bool)
        is_chosen[start : start + n_window] = True
        for chunk in ranked:
            tokens = slice(chunk.start, chunk.stop)
            fits = is_chosen.sum() + (~is_chosen[tokens]).sum() <= self.plan.n_body
            if fits and chunk.relevance >= MIN_RELEVANCE * ranked[0].relevance:
                is_chosen[tokens] = True
        for chunk in self.chunks:
            chunk.is_read = bool(is_chosen[chunk.start : chunk.stop].any())
        return is_chosen


def _split(tokens: range, n_max: int) -> list[range]:
    """Parts of at most `n_max` tokens, of about the same size."""
    borders = np.linspace(tokens.start, tokens.stop, -(-len(tokens) // n_max) + 1).astype(int).tolist()
    return [range(start, stop) for start, stop in itertools.pairwise(borders)]
