"""Tasks whose answer has to contain certain words: needles and RULER."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..llamacpp.model import Model
from ..prompt import Prompt
from ..reading.choice import Chunk
from ..reading.engine import Engine
from .runner import Job, Seen


@dataclass(frozen=True)
class AnswerCase:
    """A prompt, and the words that the answer must contain.

    places: tokens of the document next to what is asked for, for the ranks of their chunks; None if there are no such.
    """

    key: dict[str, Any]
    make_prompt: Callable[[Model], Prompt]
    outputs: Sequence[str]
    n_predict: int
    places: Callable[[Model, Prompt], list[int]] | None = None
    needs_full: ClassVar[bool] = False

    def prompt(self, engine: Engine) -> Prompt:
        return self.make_prompt(engine.model)

    def observe(self, engine: Engine) -> None:
        pass

    def measure(self, engine: Engine, job: Job, seen: Seen) -> dict[str, Any]:
        """Return score: the share of `outputs` that the answer contains.

        After skimming, first: whether the chunks with what is asked for are the most relevant ones.
        """
        answer = "".join(engine.stream(self.n_predict))
        found = [output.lower() in answer.lower() for output in self.outputs]
        row = {"score": float(np.mean(found)), "answer": answer}
        if seen.stats:
            row |= {"ttft_s": round(seen.stats.seconds, 3), "cells": seen.stats.cells_kept}
        if seen.stats and seen.stats.chunks and self.places:
            row["first"] = are_first(self.places(engine.model, seen.prompt), seen.stats.chunks)
        return row


def are_first(tokens: Sequence[int], chunks: Sequence[Chunk]) -> bool:
    """Return whether the chunks with `tokens` are the most relevant ones."""
    wanted = {i for i, chunk in enumerate(chunks) for token in tokens if chunk.start <= token < chunk.stop}
    ranked = sorted(range(len(chunks)), key=lambda i: -chunks[i].relevance)
    return wanted == set(ranked[: len(wanted)])
