"""Questions in other words than the text that answers them, for heads that tell what answers a question."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DapqError
from ..files import read_jsonl, read_text
from ..llamacpp.model import Model
from ..prompt import Prompt
from ..prompt.chat_template import chat_prompt
from .needles import find_span

# those of our own, with a text for each style
BUILT_IN = Path(__file__).parent / "texts" / "questions"


@dataclass(frozen=True)
class Question:
    """A fact, and a question for it that shares no content word with it.

    Attributes:
        fact: A sentence that answers the question.
        question: In other words.
        answer: Words of the fact.
        kind: What is asked for: fact, reason, number, person, place, how-to.
        style: Name of the text in which the fact is put.
    """

    fact: str
    question: str
    answer: str
    kind: str = ""
    style: str = ""


@dataclass(frozen=True)
class Asked:
    """A prompt with one fact, and where it is in the document.

    Attributes:
        prompt: It asks for the fact.
        fact: Tokens of the document.
    """

    prompt: Prompt
    fact: slice


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a JSONL file with the fields of `Question`.

    Raises `DapqError` with the number of a bad line, or if there is none.
    """
    return [question for _, question in read_jsonl(path, _question, "a question")]


def _question(row: dict[str, Any]) -> Question:
    for name in ("fact", "question", "answer", *row):
        if not isinstance(row[name], str) or not row[name].strip():
            raise TypeError(f"{name} must be a text")
    return Question(**row)


def read_texts(folder: Path) -> dict[str, str]:
    """Return {style: text} of the *.txt in a folder. Raises `DapqError` if there is none."""
    texts = {path.stem: read_text(path) for path in sorted(folder.glob("*.txt"))}
    if not texts:
        raise DapqError(f"no *.txt in {folder}")
    return texts


def ask_all(
    model: Model, questions: Sequence[Question], texts: Mapping[str, str], n_tokens: int, seed: int = 0
) -> Iterable[Asked]:
    """Yield the prompts of `hide_all`, and where the facts are. Raises as it does."""
    for question, prompt in zip(questions, hide_all(model, questions, texts, n_tokens, seed), strict=True):
        yield Asked(prompt, find_span(model, prompt.body, question.fact.strip()))


def hide_all(
    model: Model, questions: Sequence[Question], texts: Mapping[str, str], n_tokens: int, seed: int = 0
) -> Iterable[Prompt]:
    """Yield a prompt for each question: a document of about `n_tokens` tokens with the fact at a random place.

    A question whose style has no text gets all of them. Raises `DapqError` if a text is too short.
    """
    rng = np.random.default_rng(seed)
    for question in questions:
        yield _hide(model, question, texts.get(question.style) or "\n\n".join(texts.values()), n_tokens, rng)


def _hide(model: Model, question: Question, text: str, n_tokens: int, rng: np.random.Generator) -> Prompt:
    # more characters than most tokens have
    start = text.find(" ", int(rng.integers(max(1, len(text) - 6 * n_tokens)))) + 1
    tokens = model.tokenize(text[start : start + 16 * n_tokens])[:n_tokens]
    if len(tokens) < n_tokens // 2:
        raise DapqError(f"a text is too short for {n_tokens:,} tokens: give a longer `haystack`")
    text = model.detokenize(tokens).decode("utf-8", "ignore")
    place = text.find(". ", int(len(text) * rng.uniform(0.05, 0.9))) + 1
    return chat_prompt(model, f"{text[:place]} {question.fact.strip()}{text[place:]}".strip(), question.question)
