"""Needle in a haystack: a fact is put into unrelated text and asked for."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DapqError
from ..llama import Llama
from ..reader import Prompt
from .answers import AnswerCase, longest


@dataclass(frozen=True)
class Needle:
    """A fact, the question for it, the first words of the answer, and what the answer must contain.

    paraphrase: a question that shares no word with the fact but its subject; may be empty.
    """

    needle: str
    question: str
    answer_prefix: str
    answer: str
    paraphrase: str = ""

    def is_found_in(self, answer: str) -> bool:
        return self.answer.lower() in answer.lower()


def read_needles(path: Path) -> list[Needle]:
    """Needles of a JSONL file with the fields of `Needle`. Raises `DapqError` with the number of a bad line."""
    needles = []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        try:
            needles.append(Needle(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DapqError(f"{path}, line {number}: not a needle: {error}") from error
    return needles


def read_haystack(paths: Iterable[Path]) -> str:
    """The texts one after the other."""
    return "\n\n".join(_read(path) for path in paths)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DapqError(f"cannot read {path}: {error}") from error


def needle_prompt(llama: Llama, needle: Needle, haystack: str, n_tokens: int, depth: float) -> Prompt:
    """A chat prompt of `n_tokens` tokens, or a few less, with the needle at `depth` (0 to 1) of the haystack.

    The haystack is cut at characters, so that the needle stands in ordinary text. Raises ValueError if the haystack is
    too short.
    """

    def prompt(n_chars: int) -> Prompt:
        cut = haystack.find(" ", int(n_chars * depth))
        text = haystack[:cut] + needle.needle + haystack[cut + 1 : n_chars]
        return llama.chat_prompt(text, needle.question, needle.answer_prefix)

    low, high = 0, min(len(haystack), 16 * n_tokens)
    if len(prompt(high)) < n_tokens:
        raise ValueError(f"the haystack is too short for a prompt of {n_tokens} tokens")
    return longest(prompt, low, high, n_tokens)


def find_span(llama: Llama, tokens: Sequence[int], text: str) -> slice:
    """The tokens in which `text` stands first. Raises `DapqError` if it does not."""
    pieces = [llama._model.detokenize([token]) for token in tokens]
    first = b"".join(pieces).find(text.encode())
    if first < 0:
        raise DapqError(f"the tokens of the prompt do not spell {text!r}")
    ends = np.cumsum([len(piece) for piece in pieces])
    start, stop = np.searchsorted(ends, [first, first + len(text.encode()) - 1], side="right").tolist()
    return slice(start, stop + 1)


def needle_cases(
    needles: Sequence[Needle],
    haystack: str,
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    n_offsets: int,
    seed: int,
    n_predict: int,
    with_prefix: bool = True,
    paraphrased: bool = False,
) -> Iterator[AnswerCase]:
    """All needles at all depths of prompts of all lengths, in parts of the haystack that begin at random words.

    Raises `DapqError` if needles lack a paraphrase that is asked for.
    """
    if paraphrased and not all(needle.paraphrase for needle in needles):
        raise DapqError('a paraphrased question needs the field "paraphrase" of each needle')
    starts = _starts(haystack, n_offsets, seed, max(lengths))
    for length, (offset, start), needle, depth in itertools.product(lengths, enumerate(starts), needles, depths):
        question = needle.paraphrase if paraphrased else needle.question
        asked = Needle(needle.needle, question, needle.answer_prefix if with_prefix else "", needle.answer)
        key = {"task": "needle", "length": length, "depth": depth, "needle": needle.answer, "offset": offset}
        yield AnswerCase(
            key={**key, "seed": seed, "prefix": with_prefix, "paraphrased": paraphrased, "n": n_predict},
            make_prompt=partial(_make_prompt, needle=asked, haystack=haystack[start:], n_tokens=length, depth=depth),
            outputs=[needle.answer],
            n_predict=n_predict,
            place=partial(_place, text=needle.needle.strip()),
        )


def _starts(haystack: str, n_offsets: int, seed: int, n_tokens: int) -> list[int]:
    """Where parts of the haystack begin: at its first word, then at random ones that leave enough text behind."""
    # more characters than most tokens have
    last = max(1, len(haystack) - 6 * n_tokens)
    random = np.random.default_rng(seed).integers(last, size=n_offsets - 1).tolist()
    return [0, *(haystack.find(" ", start) + 1 for start in random)]


def _make_prompt(llama: Llama, needle: Needle, haystack: str, n_tokens: int, depth: float) -> Prompt:
    try:
        return needle_prompt(llama, needle, haystack, n_tokens, depth)
    except ValueError as error:
        raise DapqError(str(error)) from error


def _place(llama: Llama, prompt: Prompt, text: str) -> int:
    return find_span(llama, prompt.head + prompt.body, text).stop - 1 - len(prompt.head)
