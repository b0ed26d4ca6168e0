"""Tasks whose answer has to contain certain words: needles and RULER."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..llama import Llama, ReadStats
from ..reader import Prompt
from .results import Row
from .runner import Job, Seen


def longest(prompt: Callable[[int], Prompt], low: int, high: int, n_tokens: int) -> Prompt:
    """The longest prompt of at most `n_tokens` tokens, of those from `low`, which fits, to `high` (exclusive)."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(prompt(middle)) <= n_tokens else (low, middle)
    return prompt(low)


@dataclass(frozen=True)
class AnswerCase:
    """A prompt, and the words that the answer must contain.

    place: a token of the document next to what is asked for, for the rank of its chunk; None if there is no such place.
    """

    key: Row
    make_prompt: Callable[[Llama], Prompt]
    outputs: Sequence[str]
    n_predict: int
    place: Callable[[Llama, Prompt], int] | None = None
    needs_full: ClassVar[bool] = False

    def prompt(self, llama: Llama) -> Prompt:
        return self.make_prompt(llama)

    def observe(self, llama: Llama) -> None:
        pass

    def measure(self, llama: Llama, job: Job, seen: Seen) -> Row:
        """score: the share of `outputs` that the answer contains; after skimming, rank: that of the chunk, from 1."""
        answer = "".join(llama.stream(self.n_predict))
        found = [output.lower() in answer.lower() for output in self.outputs]
        row = {"score": float(np.mean(found)), "answer": answer}
        if seen.stats:
            row |= {"ttft_s": round(seen.stats.seconds, 3), "cells": seen.stats.cells_kept}
        if seen.stats and seen.stats.chunks and self.place:
            row["rank"] = self._rank(llama, seen.stats)
        return row

    def _rank(self, llama: Llama, stats: ReadStats) -> int:
        token = self.place(llama, self.prompt(llama))
        (chunk,) = [chunk for chunk in stats.chunks if chunk.start <= token < chunk.stop]
        return 1 + sum(other.relevance > chunk.relevance for other in stats.chunks)
