"""Rounds over the answers of windows: where they are too long for one answer, groups of them answer again."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from ..control import Control
from ..llamacpp.model import Model
from ..prompt.chat_template import chat_prompt
from ..reading.engine import Engine
from ..reading.items import items_of, key_of
from ..reading.whole import N_PART, window_size, windows_of

# rounds at most; each makes some four tokens one, so that these are enough for a document of any length
N_ROUNDS = 5


@dataclass(frozen=True)
class Reduced:
    """Texts that groups of texts became.

    Attributes:
        texts: The last answer is written over them.
        n_rounds: Times that groups were asked.
        n_cut: Groups that had more to say than `N_PART` tokens.
        n_silent: Groups that said nothing.
        n_evaluated: Tokens that were evaluated for it.
    """

    texts: list[str]
    n_rounds: int = 0
    n_cut: int = 0
    n_silent: int = 0
    n_evaluated: int = 0


def reduce(engine: Engine, texts: Sequence[str], asked: str, fits: Callable[[str], bool], control: Control) -> Reduced:
    """Have groups of texts answer, and groups of their answers, until all of them fit, or get no shorter.

    What groups answer is in the store, so that rounds that were stopped go on.

    Args:
        engine: It answers.
        texts: Answers of windows.
        asked: What each group is asked, see `asked_of_each`.
        fits: Says whether an answer is written over all of a text.
        control: Watches and stops.

    Raises what `control` raises, and `DapqError` if llama.cpp fails.
    """
    found = Reduced(list(texts))
    while found.n_rounds < N_ROUNDS and not fits("\n".join(found.texts)):
        shorter = _round(engine, found, asked, control)
        if _n_tokens(engine.model, shorter.texts) >= _n_tokens(engine.model, found.texts):
            break
        found = shorter
    return found


def _round(engine: Engine, before: Reduced, asked: str, control: Control) -> Reduced:
    """Return what groups of the texts answer; those that are no longer than an answer stay as they are."""
    model, made = engine.model, dict[str, str]()
    size = window_size(chat_prompt(model, "\n".join(before.texts), asked), model.n_ctx_train)
    groups = _groups(model, before.texts, size)
    prompts = {
        i: chat_prompt(model, "\n".join(group), asked)
        for i, group in enumerate(groups)
        if _n_tokens(model, group) > N_PART
    }
    answers = engine.answer_windows(*prompts.values(), control=control)
    n_cut, n_silent, n_evaluated = before.n_cut, before.n_silent, before.n_evaluated
    with contextlib.closing(answers):
        for i, texts in enumerate(groups):
            if i in prompts:
                said = list(islice(answers, len(windows_of(prompts[i], model.n_ctx_train))))
                texts = [text for answer in said for text in items_of(answer.text, asked)]
                n_cut += sum(answer.is_cut for answer in said)
                n_silent += not texts
                n_evaluated += sum(answer.n_evaluated for answer in said)
            for text in texts:
                made.setdefault(key_of(text), text)
    return Reduced(list(made.values()), before.n_rounds + 1, n_cut, n_silent, n_evaluated)


def _groups(model: Model, texts: Sequence[str], n_most: int) -> list[list[str]]:
    """Return texts in groups of at most `n_most` tokens, where they are not longer by themselves."""
    groups, n_group = list[list[str]](), n_most
    for text in texts:
        n_text = _n_tokens(model, [text])
        if n_group + n_text > n_most:
            groups.append([])
            n_group = 0
        groups[-1].append(text)
        n_group += n_text
    return groups


def _n_tokens(model: Model, texts: Sequence[str]) -> int:
    return sum(len(model.tokenize(f"{text}\n")) for text in texts)
