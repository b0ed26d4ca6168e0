"""Needle in a haystack: a fact is put into unrelated text and asked for."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DapqError
from ..llama import Llama
from ..reader import Prompt


@dataclass(frozen=True)
class Needle:
    """A fact, the question for it, the first words of the answer, and what the answer must contain."""

    needle: str
    question: str
    answer_prefix: str
    answer: str

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
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(prompt(middle)) <= n_tokens else (low, middle)
    return prompt(low)
