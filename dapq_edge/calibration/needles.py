"""Needles: facts that are put into unrelated text and asked for."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..counts import count
from ..errors import DapqError
from ..files import read_jsonl, read_text
from ..llamacpp.model import Model
from ..prompt import Prompt
from ..prompt.chat_template import chat_prompt


@dataclass(frozen=True)
class Needle:
    """A fact, the question for it, the first words of the answer, and what the answer must contain.

    paraphrase: a question that shares no word with the fact but its subject, and the first words of the answer to it;
    may be empty.
    """

    needle: str
    question: str
    answer_prefix: str
    answer: str
    paraphrase: str = ""
    paraphrase_prefix: str = ""


def read_needles(path: Path) -> list[Needle]:
    """Return the needles of a JSONL file with the fields of `Needle`.

    Raises `DapqError` with the number of a bad line, or if there is none.
    """
    return [needle for _, needle in read_jsonl(path, _needle, "a needle")]


def _needle(row: dict[str, Any]) -> Needle:
    for name in ("needle", "question", "answer_prefix", "answer", *row):
        if not isinstance(row[name], str):
            raise TypeError(f"{name} must be a text")
    return Needle(**row)


def read_haystack(paths: Iterable[Path]) -> str:
    """Return the texts one after the other."""
    return "\n\n".join(map(read_text, paths))


def needle_prompt(
    model: Model, needles: Sequence[Needle], haystack: str, n_tokens: int, depths: Sequence[float]
) -> Prompt:
    """Return a chat prompt of `n_tokens` tokens, or a few less, with each needle at its depth (0 to 1) of the haystack.

    It asks for all of them, and ends with the first words of the first answer. The haystack is cut at characters, so
    that needles stand in ordinary text. Raises `DapqError` if the haystack is too short.
    """
    question = " ".join(needle.question for needle in needles)

    def prompt(n_chars: int) -> Prompt:
        text = haystack[:n_chars]
        # from the last one, so that the places of the others stay
        for depth, needle in sorted(zip(depths, needles, strict=True), key=lambda pair: -pair[0]):
            blank = text.find(" ", int(n_chars * depth))
            cut = blank if blank >= 0 else len(text)
            text = text[:cut] + needle.needle + text[cut + 1 :]
        return chat_prompt(model, text, question, needles[0].answer_prefix)

    low, high = 0, min(len(haystack), 16 * n_tokens)
    if len(prompt(high)) < n_tokens:
        raise DapqError(f"the haystack is too short for a prompt of {n_tokens} tokens")
    return longest(prompt, low, high, n_tokens)


def find_span(model: Model, tokens: Sequence[int], text: str) -> slice:
    """Return the tokens in which `text` stands first. Raises `DapqError` if it does not."""
    pieces = [model.detokenize([token], special=False) for token in tokens]
    first = b"".join(pieces).find(text.encode())
    if first < 0:
        raise DapqError(f"the tokens of the prompt do not spell {text!r}")
    ends = np.cumsum([len(piece) for piece in pieces])
    start, stop = np.searchsorted(ends, [first, first + len(text.encode()) - 1], side="right").tolist()
    return slice(start, stop + 1)


def longest(prompt: Callable[[int], Prompt], low: int, high: int, n_tokens: int) -> Prompt:
    """Return the longest prompt of at most `n_tokens` tokens, of those from `low` to `high` (exclusive).

    Raises `DapqError` if the shortest does not fit.
    """
    if len(prompt(low)) > n_tokens:
        raise DapqError(f"there is no room for what is asked in {count(n_tokens, 'token')}: raise `lengths`")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(prompt(middle)) <= n_tokens else (low, middle)
    return prompt(low)
