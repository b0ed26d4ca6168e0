"""Tasks whose answer has to contain certain words: needles and RULER."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import DapqError
from ..reader import Chunk, Prompt
from ..reading import ReadingLlama
from .results import Row
from .runner import Job, Seen


def longest(prompt: Callable[[int], Prompt], low: int, high: int, n_tokens: int) -> Prompt:
    """The longest prompt of at most `n_tokens` tokens, of those from `low` to `high` (exclusive).

    Raises `DapqError` if the shortest does not fit.
    """
    if len(prompt(low)) > n_tokens:
        raise DapqError(f"{n_tokens} tokens have no room for what is asked: raise --lengths")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(prompt(middle)) <= n_tokens else (low, middle)
    return prompt(low)


@dataclass(frozen=True)
class AnswerCase:
    """A prompt, and the words that the answer must contain.

    places: tokens of the document next to what is asked for, for the ranks of their chunks; None if there are no such.
    """

    key: Row
    make_prompt: Callable[[ReadingLlama], Prompt]
    outputs: Sequence[str]
    n_predict: int
    places: Callable[[ReadingLlama, Prompt], list[int]] | None = None
    needs_full: ClassVar[bool] = False

    def prompt(self, llama: ReadingLlama) -> Prompt:
        return self.make_prompt(llama)

    def observe(self, llama: ReadingLlama) -> None:
        pass

    def measure(self, llama: ReadingLlama, job: Job, seen: Seen) -> Row:
        """score: the share of `outputs` that the answer contains.

        After skimming, first: whether the chunks with what is asked for are the most relevant ones.
        """
        answer = "".join(llama.stream(self.n_predict))
        found = [output.lower() in answer.lower() for output in self.outputs]
        row = {"score": float(np.mean(found)), "answer": answer}
        if seen.stats:
            row |= {"ttft_s": round(seen.stats.seconds, 3), "cells": seen.stats.cells_kept}
        if seen.stats and seen.stats.chunks and self.places:
            row["first"] = are_first(self.places(llama, seen.prompt), seen.stats.chunks)
        return row


def are_first(tokens: Sequence[int], chunks: Sequence[Chunk]) -> bool:
    """Whether the chunks with `tokens` are the most relevant ones."""
    wanted = {i for i, chunk in enumerate(chunks) for token in tokens if chunk.start <= token < chunk.stop}
    ranked = sorted(range(len(chunks)), key=lambda i: -chunks[i].relevance)
    return wanted == set(ranked[: len(wanted)])
