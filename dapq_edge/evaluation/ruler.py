"""RULER (arXiv 2404.06654): rows of its files, and tasks of the same kinds at any length.

Each generated prompt is filler with lines in it, and ends with the first words of the answer as RULER's prompts do.
"""

import itertools
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.needles import longest
from ..cells import N_SINK
from ..files import read_jsonl
from ..llamacpp.model import Model
from ..prompt import Prompt
from ..prompt.chat_template import chat_prompt
from .answers import AnswerCase
from .data import digest, unique

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

# keys of generated needles, and facts that no question is about
KEYS = (
    "amber", "basalt", "cedar", "dahlia", "ember", "fennel", "garnet", "heron", "indigo", "juniper", "kestrel",
    "linden", "marble", "nettle", "onyx", "pepper", "quartz", "raven", "saffron", "teal", "umber", "velvet", "walnut",
    "yarrow",
)  # fmt: skip
N_DISTRACTORS = 8


@dataclass(frozen=True)
class Sample:
    """Lines to hide in filler, the question for them, the first words of the answer, and what it must contain."""

    lines: list[str]
    question: str
    answer_prefix: str
    outputs: list[str]


def _line(key: str, number: int) -> str:
    return f"One of the special magic numbers for {key} is: {number}."


def _numbers(rng: np.random.Generator, n: int) -> list[int]:
    numbers: list[int] = rng.choice(np.arange(1_000_000, 10_000_000), n, replace=False).tolist()
    return numbers


def _ask(keys: str, plural: bool) -> tuple[str, str]:
    what, verb = ("numbers", "are") if plural else ("number", "is")
    question = f"What {verb} {'all ' if plural else ''}the special magic {what} for {keys} mentioned in the text?"
    return question, f"The special magic {what} for {keys} mentioned in the text {verb}"


def niah_single(rng: np.random.Generator) -> Sample:
    """One fact in filler (RULER, appendix B: S-NIAH)."""
    (key,), (number,) = rng.choice(KEYS, 1).tolist(), _numbers(rng, 1)
    return Sample([_line(key, number)], *_ask(key, False), [str(number)])


def niah_multikey(rng: np.random.Generator) -> Sample:
    """One fact among others of the same form (MK-NIAH)."""
    keys, numbers = rng.choice(KEYS, 1 + N_DISTRACTORS, replace=False).tolist(), _numbers(rng, 1 + N_DISTRACTORS)
    return Sample(list(map(_line, keys, numbers)), *_ask(keys[0], False), [str(numbers[0])])


def niah_multivalue(rng: np.random.Generator) -> Sample:
    """Four facts about the same key (MV-NIAH)."""
    (key,), numbers = rng.choice(KEYS, 1).tolist(), _numbers(rng, 4)
    return Sample([_line(key, number) for number in numbers], *_ask(key, True), list(map(str, numbers)))


def niah_multiquery(rng: np.random.Generator) -> Sample:
    """Four facts about four keys, all asked for (MQ-NIAH)."""
    keys, numbers = rng.choice(KEYS, 4, replace=False).tolist(), _numbers(rng, 4)
    listed = f"{', '.join(keys[:-1])}, and {keys[-1]}"
    return Sample(list(map(_line, keys, numbers)), *_ask(listed, True), list(map(str, numbers)))


def variable_tracking(rng: np.random.Generator) -> Sample:
    """A value that is handed on from variable to variable (VT), and a chain of another value beside it."""
    names = ["".join(rng.choice(list(string.ascii_uppercase), 5)) for _ in range(10)]
    values, lines = _numbers(rng, 2), []
    for value, chain in zip(values, (names[:5], names[5:]), strict=True):
        lines.append(f"VAR {chain[0]} = {value}.")
        lines += [f"VAR {name} = VAR {before}." for before, name in itertools.pairwise(chain)]
    question = f"Which variables are assigned the value {values[0]} in the text, directly or through other variables?"
    return Sample(lines, question, f"The 5 variables that are assigned the value {values[0]} are", names[:5])


GENERATORS: dict[str, Callable[[np.random.Generator], Sample]] = {
    "single": niah_single,
    "multikey": niah_multikey,
    "multivalue": niah_multivalue,
    "multiquery": niah_multiquery,
    "tracking": variable_tracking,
}


def generated_cases(
    kinds: Sequence[str], lengths: Sequence[int], n_rows: int, seed: int, n_predict: int
) -> Iterator[AnswerCase]:
    """Yield `n_rows` prompts of each kind and length; n_predict: tokens of an answer."""
    for kind in unique(kinds):
        for length in unique(lengths):
            for row in range(n_rows):
                rng = np.random.default_rng([seed, list(GENERATORS).index(kind), length, row])
                sample, places = GENERATORS[kind](rng), int(rng.integers(2**31))
                yield AnswerCase(
                    key={"task": f"ruler {kind}", "length": length, "row": row, "seed": seed, "n": n_predict},
                    make_prompt=partial(hide, sample=sample, n_tokens=length, seed=places),
                    outputs=sample.outputs,
                    n_predict=n_predict,
                )


def hide(model: Model, sample: Sample, n_tokens: int, seed: int) -> Prompt:
    """The lines of a sample in order at random places of filler, in all about `n_tokens` tokens. Raises `DapqError`."""

    def prompt(n_sentences: int) -> Prompt:
        text = among_filler(sample.lines, n_sentences, seed)
        return chat_prompt(model, text, sample.question, sample.answer_prefix)

    return longest(prompt, 0, n_tokens, n_tokens)


def among_filler(lines: Sequence[str], n_sentences: int, seed: int) -> str:
    """Return lines in order at random places of so many sentences of filler."""
    sentences = [FILLER] * n_sentences
    places = np.sort(np.random.default_rng(seed).integers(n_sentences + 1, size=len(lines)))
    for place, line in zip(places[::-1].tolist(), lines[::-1], strict=True):
        sentences.insert(place, line)
    return "\n".join(sentences)


def file_cases(path: Path, n_rows: int, n_predict: int) -> Iterator[AnswerCase]:
    """Rows of a RULER file as they are, without a chat template. Raises `DapqError` with the number of a bad line."""
    for number, (text, outputs) in itertools.islice(read_jsonl(path, _row, "a row of RULER"), n_rows):
        yield AnswerCase(
            key={"task": f"ruler {path.stem}", "row": number, "n": n_predict, "data": digest(text, *outputs)},
            make_prompt=partial(plain_prompt, text=text),
            outputs=outputs,
            n_predict=n_predict,
        )


def _row(row: dict[str, Any]) -> tuple[str, list[str]]:
    text, outputs = row["input"], row["outputs"]
    if not isinstance(text, str) or not isinstance(outputs, list) or not outputs:
        raise TypeError("input must be a text, and outputs a list")
    return text, list(map(str, outputs))


def plain_prompt(model: Model, text: str) -> Prompt:
    """A text that ends with its question: what is behind the last line break is the question."""
    body, _, question = text.rpartition("\n")
    tokens, start = (model.tokenize(part, add_bos=True) for part in (text, f"{body}\n"))
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(tokens, start, strict=False))
    n_body = max(N_SINK, sum(1 for _ in same))
    return Prompt.of(tokens[:N_SINK], tokens[N_SINK:n_body], tokens[n_body:], has_question=bool(question))
