"""What related systems are compared by: news, needles, RULER, and a question that comes after the eviction."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from second_fact import make_document

from dapq_edge.calibration.needles import read_haystack, read_needles
from dapq_edge.evaluation.fidelity import fidelity_cases
from dapq_edge.evaluation.needle import needle_cases
from dapq_edge.evaluation.ruler import generated_cases
from dapq_edge.prompt.chat_template import chat_prompt, next_turn
from dapq_edge.reading.engine import Engine

LENGTH, N_ANSWER = 2048, 48

DEPTHS = (0.1, 0.5, 0.9)

RULER = ("multikey", "multivalue", "multiquery")


@dataclass(frozen=True)
class Task:
    """A prompt.

    Attributes:
        name: What it is a prompt of.
        row: Its number.
        tokens: Integers.
        outputs: What is wanted of the answer of the full cache; it counts only if that has it.
        then: A next question, and the first words of its answer, that stand behind `tokens` instead of the answer.
        wanted: The rest of that answer.
    """

    name: str
    row: int
    tokens: np.ndarray
    outputs: Sequence[str] = ()
    then: Sequence[int] = ()
    wanted: Sequence[int] = ()


def tasks_of(args: Namespace, engine: Engine) -> Iterator[Task]:
    for name in args.tasks:
        for row, (prompt, *rest) in enumerate(PROMPTS[name](args, engine)):
            yield Task(name, row, np.array(prompt.tokens), *rest)


def _news(args: Namespace, engine: Engine) -> Iterator[tuple]:
    for case in fidelity_cases(args.news, args.rows, LENGTH, N_ANSWER, engine.model):
        yield (case.prompt(engine),)


def _needles(args: Namespace, engine: Engine) -> Iterator[tuple]:
    options = {"lengths": [LENGTH], "depths": DEPTHS, "n_offsets": 1, "seed": args.seed, "n_predict": N_ANSWER}
    for case in needle_cases(read_needles(args.needles)[: args.rows], _haystack(args.haystack), **options):
        yield case.prompt(engine), case.outputs


def _ruler(args: Namespace, engine: Engine) -> Iterator[tuple]:
    for case in generated_cases(RULER, [LENGTH], args.rows, args.seed, N_ANSWER):
        yield case.prompt(engine), case.outputs


def _second(args: Namespace, engine: Engine) -> Iterator[tuple]:
    model = engine.model
    for row in range(args.rows):
        text, (first, second) = make_document(
            model, _haystack(args.haystack), read_needles(args.needles), LENGTH, args.seed + row
        )
        blank = "" if model.chat_template else " "
        then = next_turn(model, second.question, blank + second.answer_prefix)
        prompt = chat_prompt(model, text, first.question, first.answer_prefix)
        yield prompt, (), then, model.tokenize(f" {second.answer}")


def _haystack(folder: Path) -> str:
    return read_haystack(sorted(folder.glob("*.txt")))


PROMPTS = {"news": _news, "needles": _needles, "ruler": _ruler, "second": _second}
