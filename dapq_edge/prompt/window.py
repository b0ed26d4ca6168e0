"""Surroundings of a window of a document: the question comes last, so that every layout of a prompt is asked alike."""

from dataclasses import dataclass
from itertools import chain, takewhile

from .prompt import Kind, Part, Prompt

# tokens behind a question that are no words
N_MARKS = 2

# tokens of a system message that are read with each window, at most
N_HEAD = 1024


@dataclass(frozen=True)
class Window:
    """Tokens around a window of the documents.

    Attributes:
        head: The system message, and the start of a message.
        tail: The request, wherever it stands, and the generation prompt.
        n_asking: Last tokens of `tail`, from the question on.
        n_behind: Last tokens of `tail`, behind the question.
    """

    head: list[int]
    tail: list[int]
    n_asking: int
    n_behind: int

    @property
    def before(self) -> list[int]:
        """Tokens of `tail` before the question."""
        return self.tail[: len(self.tail) - self.n_asking]

    @property
    def question(self) -> list[int]:
        """Tokens from the question to the end."""
        return self.tail[len(self.tail) - self.n_asking :]

    @property
    def asking(self) -> list[int]:
        """Tokens of the question alone."""
        return self.question[: self.n_asking - self.n_behind]

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)


def window_of(prompt: Prompt) -> Window:
    """Return what is read with each window of the documents of a prompt.

    Of a request with more than `n_asked` tokens beside the question, the surest and newest parts are taken.
    """
    parts = list(takewhile(lambda part: part.kind in (Kind.FRAME, Kind.SYSTEM), prompt.parts))
    head, last = list(chain.from_iterable(map(prompt.tokens_of, parts)))[:N_HEAD], prompt.borders[1]
    asked, tail = _asked(prompt), []
    for part in prompt.parts[len(parts) :]:
        if part in asked:
            tail += [*prompt.separator, *asked[part]] if part.stop <= last else asked[part]
        elif part.start >= last and part.kind == Kind.FRAME:
            tail += prompt.tokens_of(part)
    tail += ending_of(prompt)
    if prompt.question is None:
        return Window(head, tail, len(tail), prompt.n_end)
    n_behind = len(prompt) - prompt.question.stop if is_last(prompt) else prompt.n_end
    return Window(head, tail, len(prompt.question) + n_behind, n_behind)


def is_last(prompt: Prompt) -> bool:
    """Return whether nothing stands behind the question but the generation prompt."""
    return prompt.question is None or len(prompt.text) - prompt.question.stop <= N_MARKS


def ending_of(prompt: Prompt) -> list[int]:
    """Return what comes before the answer where one looks ahead: the question, if other words are behind it."""
    if prompt.question is None or is_last(prompt):
        return prompt.end
    return [*prompt.separator, *prompt.tokens[prompt.question.start : prompt.question.stop], *prompt.end]


def _asked(prompt: Prompt) -> dict[Part, list[int]]:
    """Return the tokens that are read behind each window, of each part of the request."""
    asked: dict[Part, list[int]] = {}
    question = prompt.question or range(0)
    n_free = prompt.n_asked + (len(question) if is_last(prompt) else 0)
    parts = prompt.of_kind(Kind.REQUEST, Kind.ANSWER)
    for part in sorted(parts, key=lambda part: (part.age, part.kind != Kind.REQUEST, -part.level, -part.start)):
        is_question = part.start <= question.start and question.stop <= part.stop
        if is_question and not is_last(prompt) and len(part) - len(question) <= N_MARKS:
            # it comes at the end
            continue
        tokens = prompt.tokens_of(part)[-n_free:] if n_free else []
        if tokens:
            asked[part] = tokens
            n_free -= len(tokens)
    return asked
