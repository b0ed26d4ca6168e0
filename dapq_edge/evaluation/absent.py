"""Questions whose fact is in a text, and the same without it: what tells them apart. Nothing is answered."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..calibration.questions import Question, hide_all
from ..control import UNCONTROLLED, Control
from ..eviction.budget import Cells
from ..eviction.policies import Policy
from ..prompt import Prompt
from ..reading.engine import Engine
from ..reading.plan import make_plan
from ..reading.skimming import skimming_of
from ..reading.stats import absent_note
from ..reading.strategies import SkimReader
from .data import digest
from .results import Results, Row
from .runner import Job, model_key

# what stands where a fact is not
ELSE = "The weather was mild for the time of the year."

# halves of the questions, by number: even, odd
HALVES = "choose", "report"

# chunks whose relevance is kept of each prompt
N_TOP = 5

# cells of a skim: its windows are of the largest size
BUDGET = Cells(1024)


@dataclass(frozen=True)
class Group:
    """Questions of one kind.

    Attributes:
        asked: In whose words: "the fact's" or "other".
        questions: With their facts.
        texts: {style: text} in which the facts are put.
        others: For each question, a fact of the same form that does not answer it; empty if there are none.
    """

    asked: str
    questions: Sequence[Question]
    texts: Mapping[str, str]
    others: Sequence[str] = field(default=())

    @property
    def ways(self) -> dict[str, Sequence[str]]:
        """Texts that stand in the document of each question: its fact, something else, or another fact."""
        n = len(self.questions)
        ways = {"there": [question.fact for question in self.questions], "absent": [ELSE] * n}
        return ways | ({"another": self.others} if self.others else {})

    def half_of(self, i: int) -> str:
        """Return the half of a question, the same wherever its fact stands."""
        return HALVES[i % len(self.questions) % len(HALVES)]

    def numbers(self, n_questions: int, half: str) -> set[int]:
        """Return which of the first `n_questions` are asked of a half, or of all."""
        return {i for i in range(n_questions) if half in ("all", self.half_of(i))}


def absent_rows(
    engine: Engine,
    groups: Sequence[Group],
    lengths: Sequence[int],
    results: Results,
    *,
    policy: Policy,
    n_questions: int,
    half: str = "all",
    seed: int = 0,
    control: Control = UNCONTROLLED,
) -> list[Row]:
    """Skim texts for facts that are there and for such that are not, unless `results` has them.

    Args:
        engine: Has a model.
        groups: What is asked.
        lengths: Tokens of the texts.
        results: Keeps the rows.
        policy: As for an answer; it says how many tokens are probed at once.
        n_questions: Of each group and way; if it has fewer, they are asked again with their facts in other places.
        half: Questions that are asked: "choose", "report" or "all", so that a limit is not chosen on what reports it.
        seed: Of the places.
        control: Is told how many prompts are done.

    Raises `DapqError` if a text is too short, and as `SkimReader.skim` does.
    """
    keys: list[dict[str, Any]] = []
    setting = model_key(engine) | Job(policy, "", bounded=True).key(engine.heads)
    n_all = len(lengths) * sum(len(group.ways) * len(group.numbers(n_questions, half)) for group in groups)
    for key, question, prompt in _cases(engine, groups, lengths, n_questions, half, seed):
        control.report(len(keys), n_all)
        keys.append(key | setting)
        if results.get(keys[-1]) is None:
            results.add(keys[-1], _found(engine, question, prompt, policy))
    rows = (results.get(key) for key in keys)
    return [row for row in rows if row is not None]


def _cases(
    engine: Engine, groups: Sequence[Group], lengths: Sequence[int], n_questions: int, half: str, seed: int
) -> Iterator[tuple[dict[str, Any], str, Prompt]]:
    """Yield keys, questions and prompts."""
    for length, group in itertools.product(lengths, groups):
        data = digest(
            *group.texts.values(), *(text for question in group.questions for text in vars(question).values())
        )
        numbers = group.numbers(n_questions, half)
        for fact, texts in group.ways.items():
            key = {"task": "absent", "asked": group.asked, "length": length, "fact": fact, "seed": seed, "data": data}
            # all are placed, so that a half has the same places as the whole
            every = [replace(question, fact=text) for question, text in zip(group.questions, texts, strict=True)]
            cases = list(itertools.islice(itertools.cycle(every), n_questions))
            for i, prompt in enumerate(hide_all(engine.model, cases, group.texts, length, seed)):
                if i in numbers:
                    yield key | {"question": i, "half": group.half_of(i)}, cases[i].question, prompt


def _found(engine: Engine, question: str, prompt: Prompt, policy: Policy) -> dict[str, Any]:
    """Skim a document, and return what the question finds in the best chunk, and in the next ones."""
    plan = make_plan(prompt, policy, BUDGET, n_predict=1, n_ctx_train=engine.model.n_ctx_train)
    if engine.cache.allocated[0] < plan.n_cells:
        engine.open(plan.n_cells)
    reader = SkimReader(engine.cache, policy, plan, skimming=skimming_of(engine.model, engine.heads, engine.skim))
    reader.skim(prompt)
    best = sorted(reader.chunks, key=lambda chunk: -chunk.relevance)[:N_TOP]
    return {
        "relevance": best[0].relevance,
        "coverage": best[0].coverage,
        "coverage_most": max(chunk.coverage for chunk in reader.chunks),
        "top_relevance": [chunk.relevance for chunk in best],
        "top_coverage": [chunk.coverage for chunk in best],
        "windows": list(reader.n_windows),
        "is_said": absent_note(reader.chunks, question) is not None,
    }
