"""Needle in a haystack: a fact is put into unrelated text and asked for."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DapqError
from ..prompts import chat_prompt
from ..reader import Prompt
from ..reading import ReadingLlama
from .answers import AnswerCase, longest
from .data import digest, read_jsonl, read_text, unique


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
    """Needles of a JSONL file with the fields of `Needle`.

    Raises `DapqError` with the number of a bad line, or if there is none.
    """
    needles = [needle for _, needle in read_jsonl(path, _needle, "a needle")]
    if not needles:
        raise DapqError(f"no needles in {path}")
    return needles


def _needle(row: dict) -> Needle:
    for name in ("needle", "question", "answer_prefix", "answer", *row):
        if not isinstance(row[name], str):
            raise TypeError(f"{name} must be a text")
    return Needle(**row)


def read_haystack(paths: Iterable[Path]) -> str:
    """The texts one after the other."""
    return "\n\n".join(map(read_text, paths))


def needle_prompt(
    llama: ReadingLlama, needles: Sequence[Needle], haystack: str, n_tokens: int, depths: Sequence[float]
) -> Prompt:
    """A chat prompt of `n_tokens` tokens, or a few less, with each needle at its depth (0 to 1) of the haystack.

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
        return chat_prompt(llama, text, question, needles[0].answer_prefix)

    low, high = 0, min(len(haystack), 16 * n_tokens)
    if len(prompt(high)) < n_tokens:
        raise DapqError(f"the haystack is too short for a prompt of {n_tokens} tokens")
    return longest(prompt, low, high, n_tokens)


def find_span(llama: ReadingLlama, tokens: Sequence[int], text: str) -> slice:
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
    n_facts: int = 1,
    with_prefix: bool = True,
    paraphrased: bool = False,
) -> Iterator[AnswerCase]:
    """All needles at all depths of prompts of all lengths, in parts of the haystack that begin at random words.

    n_facts: needles in one prompt; the others are the next ones of the list, at evenly spread depths from there on.
    n_predict: tokens for each of them. Raises `DapqError` if needles lack a paraphrase that is asked for, or if there
    are fewer than `n_facts`.
    """
    if paraphrased and not all(needle.paraphrase for needle in needles):
        raise DapqError('a paraphrased question needs the field "paraphrase" of each needle')
    if n_facts > len(needles):
        raise DapqError(f"{n_facts} facts in a prompt need as many needles, not {len(needles)}")
    if paraphrased:
        needles = [replace(n, question=n.paraphrase, answer_prefix=n.paraphrase_prefix) for n in needles]
    asked = needles if with_prefix else [replace(needle, answer_prefix="") for needle in needles]
    starts = _starts(haystack, n_offsets, seed, max(lengths))
    every = itertools.product(unique(lengths), enumerate(starts), range(len(asked)), unique(depths))
    for length, (offset, start), i, depth in every:
        hidden = [asked[(i + k) % len(asked)] for k in range(n_facts)]
        places = [depth, *((depth + k / n_facts) % 1.0 for k in range(1, n_facts))]
        key = {"task": "needle", "length": length, "depth": depth, "needle": hidden[0].answer, "offset": offset}
        key |= {"facts": n_facts, "seed": seed, "prefix": with_prefix, "paraphrased": paraphrased, "n": n_predict}
        key["data"] = digest(haystack, *(text for needle in hidden for text in vars(needle).values()))
        yield AnswerCase(
            key=key,
            make_prompt=partial(
                needle_prompt, needles=hidden, haystack=haystack[start:], n_tokens=length, depths=places
            ),
            outputs=[needle.answer for needle in hidden],
            n_predict=n_predict * n_facts,
            places=partial(_places, texts=[needle.needle.strip() for needle in hidden]),
        )


def _starts(haystack: str, n_offsets: int, seed: int, n_tokens: int) -> list[int]:
    """Where parts of the haystack begin: at its first word, then at random ones that leave enough text behind.

    Raises `DapqError` if two would be the same.
    """
    # more characters than most tokens have
    last = max(1, len(haystack) - 6 * n_tokens)
    random = np.random.default_rng(seed).integers(last, size=n_offsets - 1).tolist()
    starts = [0, *(haystack.find(" ", start) + 1 for start in random)]
    if len(set(starts)) < n_offsets:
        raise DapqError(f"the haystack is too short for {n_offsets} parts of {n_tokens} tokens: lower --offsets")
    return starts


def _places(llama: ReadingLlama, prompt: Prompt, texts: Sequence[str]) -> list[int]:
    """The last token of each text in the document."""
    tokens = prompt.head + prompt.body
    return [find_span(llama, tokens, text).stop - 1 - len(prompt.head) for text in texts]
