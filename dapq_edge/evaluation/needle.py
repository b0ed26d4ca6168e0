"""Needle in a haystack: a fact is put into unrelated text and asked for."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ..calibration.needles import Needle, find_span, needle_prompt
from ..counts import count
from ..errors import DapqError
from ..llamacpp.model import Model
from ..prompt import Prompt
from .answers import AnswerCase
from .data import digest, unique


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
    """Yield all needles at all depths of prompts of all lengths, in parts of the haystack that begin at random words.

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
    """Return where parts of the haystack begin: at its first word, then at random ones that leave enough text behind.

    Raises `DapqError` if two would be the same.
    """
    # more characters than most tokens have
    last = max(1, len(haystack) - 6 * n_tokens)
    random = np.random.default_rng(seed).integers(last, size=n_offsets - 1).tolist()
    starts = [0, *(haystack.find(" ", start) + 1 for start in random)]
    if len(set(starts)) < n_offsets:
        parts = f"{count(n_offsets, 'part')} of {count(n_tokens, 'token')}"
        raise DapqError(f"the haystack is too short for {parts}: lower `offsets`")
    return starts


def _places(model: Model, prompt: Prompt, texts: Sequence[str]) -> list[int]:
    """Return the token in the middle of each text in the document: a text may stand on a border."""
    spans = [find_span(model, prompt.head + prompt.body, text) for text in texts]
    return [(span.start + span.stop) // 2 - len(prompt.head) for span in spans]
