"""Several questions about one text: the turns of a conversation, or requests that share it (SCBench, 2412.10319)."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import DapqError
from ..eviction.budget import parse_budget
from ..llamacpp.model import Model
from ..prompt import Prompt
from ..prompt.chat_template import chat_prompt, next_turn
from ..reading.engine import Engine
from .data import digest, unique
from .ruler import FILLER, among_filler
from .runner import Job, Seen
from .shared_texts import SHAPES, SharedText, Turn

# the turns of one conversation, the first of which decides what is kept; or requests, none of which is known then
MODES = "turns", "requests"


@dataclass(frozen=True)
class SharedCase:
    """A text, and questions about it.

    Attributes:
        key: Says which text it is, and how it is asked.
        text: With its questions.
        n_tokens: Of the prompt of the first question, about.
        n_answer: Tokens of each answer at most.
        mode: See `MODES`.
        reread: Whether the text is read again for each question, in bounded memory.
        seed: Of the places of its lines.
    """

    key: dict[str, Any]
    text: SharedText
    n_tokens: int
    n_answer: int
    mode: str
    reread: bool
    seed: int
    needs_full: ClassVar[bool] = False

    @property
    def n_predict(self) -> int:
        # the questions, too
        return len(self.text.turns) * (self.n_answer + 64)

    def prompt(self, engine: Engine) -> Prompt:
        """Return the prompt of the first question, or what all of them begin with."""
        first, second = (self._ask(engine.model, turn) for turn in self.text.turns[:2])
        if self.mode == "turns":
            return first
        both = zip(first.tokens[: first.borders[1]], second.tokens[: second.borders[1]], strict=False)
        n_same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))
        return Prompt.of([], first.tokens[:n_same], [], has_question=False)

    def observe(self, engine: Engine) -> None:
        pass

    def measure(self, engine: Engine, job: Job, seen: Seen) -> dict[str, Any]:
        """Return score, the share of right answers, and later, that of all but the first one; and the answers."""
        answers = list(self._answers(engine, job, seen))
        right = [turn.answer in answer for turn, answer in zip(self.text.turns, answers, strict=True)]
        row = {"score": float(np.mean(right)), "later": float(np.mean(right[1:])), "answers": answers}
        return row | ({"ttft_s": round(seen.stats.seconds, 3)} if seen.stats else {})

    def _answers(self, engine: Engine, job: Job, seen: Seen) -> Iterator[str]:
        shared = engine.cache.state() if self.mode == "requests" else None
        for i, turn in enumerate(self.text.turns):
            if self.reread and job.bounded and (i or shared):
                budget = parse_budget(job.budget)
                engine.read(self._ask(engine.model, turn), job.policy, budget, n_predict=self.n_answer)
            elif shared:
                engine.cache.restore(shared)
                engine.append(self._ask(engine.model, turn).tokens[len(seen.prompt) :])
            elif i:
                engine.append(next_turn(engine.model, turn.question, turn.answer_prefix))
            yield "".join(engine.stream(self.n_answer))

    def _ask(self, model: Model, turn: Turn) -> Prompt:
        return chat_prompt(model, self._document(model), turn.question, turn.answer_prefix)

    def _document(self, model: Model) -> str:
        """Return the lines among so much filler that the longest question has room behind it."""
        bare = among_filler(self.text.lines, 0, self.seed)
        prompts = (chat_prompt(model, bare, turn.question, turn.answer_prefix) for turn in self.text.turns)
        n_free = self.n_tokens - max(map(len, prompts))
        if n_free < 0:
            raise DapqError(f"{self.n_tokens} tokens have no room for what is asked: raise `lengths`")
        return among_filler(self.text.lines, n_free // len(model.tokenize(f"\n{FILLER}")), self.seed)


def shared_cases(
    kinds: Sequence[str],
    modes: Sequence[str],
    lengths: Sequence[int],
    n_rows: int,
    *,
    seed: int,
    n_answer: int,
    reread: bool = False,
    with_store: bool = False,
) -> Iterator[SharedCase]:
    """Yield `n_rows` texts of each kind, asked in each mode.

    Args:
        kinds: Of `SHAPES`.
        modes: Of `MODES`.
        lengths: Tokens of a prompt.
        n_rows: Texts of each kind and length.
        seed: Of what is random.
        n_answer: Tokens of an answer.
        reread: Whether a text is read again for each question.
        with_store: Whether what was read is kept, which changes how long it takes; for the key.
    """
    for kind, mode, length, row in itertools.product(unique(kinds), unique(modes), unique(lengths), range(n_rows)):
        rng = np.random.default_rng([seed, list(SHAPES).index(kind), length, row])
        text = SHAPES[kind](rng)
        key = {"task": f"shared {kind}", "mode": mode, "length": length, "row": row, "seed": seed, "n": n_answer}
        key |= {"reread": reread, "store": with_store, "data": digest(*text.lines)}
        yield SharedCase(key, text, length, n_answer, mode, reread, int(rng.integers(2**31)))
