"""Runs policies on prompts."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ..cache.sequence import Keep
from ..control import UNCONTROLLED, Control
from ..eviction.budget import Share, parse_budget
from ..eviction.heads import HeadProfile, model_hash
from ..eviction.policies import Full, Policy
from ..prompt import Prompt
from ..reading.engine import Engine
from ..reading.stats import ReadStats
from .data import unique
from .results import JOB_FIELDS, Results, Row


@dataclass(frozen=True)
class Job:
    """A policy and its budget.

    Attributes:
        policy: Chooses what is kept.
        budget: As it was written.
        bounded: Whether the prompt is read in bounded memory, instead of evicting the full cache.
    """

    policy: Policy
    budget: str
    bounded: bool = False

    def key(self, heads: HeadProfile | None) -> dict[str, Any]:
        """Return the fields that tell it from other jobs; `heads` is the profile of the model."""
        # a profile says which chunks are relevant, too
        used = heads if self.bounded or self.policy.uses_heads else None
        granularity = getattr(self.policy, "granularity", "")
        values = self.policy.name, granularity, self.bounded, used.digest if used else "", self.budget
        return dict(zip(JOB_FIELDS, values, strict=True))


FULL = Job(Full(), "100%")


@dataclass(frozen=True)
class Seen:
    """State of the cache before a measurement.

    Attributes:
        prompt: All of it.
        keep: The cells that were kept of the full cache.
        stats: How the prompt was read in bounded memory.
        attention_kept: The share of the attention that the kept cells hold, None if no attention was seen.
    """

    prompt: Prompt
    keep: Keep | None = None
    stats: ReadStats | None = None
    attention_kept: float | None = None


class Case(Protocol):
    """One prompt, and what to measure after it was read and evicted."""

    @property
    def key(self) -> dict[str, Any]:
        """Says which prompt it is."""

    @property
    def n_predict(self) -> int:
        """Tokens of the answer."""

    # whether `observe` has to see the full cache
    needs_full: ClassVar[bool]

    def prompt(self, engine: Engine) -> Prompt:
        """Return the prompt. Raises `DapqError` if there is none of the wanted length."""

    def observe(self, engine: Engine) -> None:
        """Look at the full cache, before anything is measured; it may change the cache."""

    def measure(self, engine: Engine, job: Job, seen: Seen) -> dict[str, Any]:
        """Return what the cache as it is now gives."""


def jobs_of(policies: Sequence[Policy], budgets: Sequence[str], bounded: bool = False) -> list[Job]:
    """Return jobs for the full cache, and for all policies with all budgets."""
    wanted = {policy.name: policy for policy in policies if policy.name != FULL.policy.name}
    pairs = itertools.product(wanted.values(), unique(budgets))
    return [FULL, *(Job(policy, budget, bounded) for policy, budget in pairs)]


def evaluate(
    engine: Engine, cases: Iterable[Case], jobs: Sequence[Job], results: Results, control: Control = UNCONTROLLED
) -> list[Row]:
    """Measure all jobs on all cases but those that `results` has; returns the rows of all of them.

    Raises `DapqError` as `Engine.read` and `Policy.check` do.
    """
    cases, model = list(cases), model_key(engine)
    total = len(cases) * len(jobs)
    for job in jobs:
        job.policy.with_heads(engine.heads).check(engine.cache)
    control.report(0, total)
    for done, case in enumerate(cases):
        key = case.key | model
        todo = [job for job in jobs if results.get(key | job.key(engine.heads)) is None]
        for i, (job, row) in enumerate(_measure(engine, case, todo), start=1):
            results.add(key | job.key(engine.heads), row)
            control.report(done * len(jobs) + i, total)
        control.report((done + 1) * len(jobs), total)
    rows = (results.get(case.key | model | job.key(engine.heads)) for case in cases for job in jobs)
    return [row for row in rows if row is not None]


def model_key(engine: Engine) -> dict[str, Any]:
    """Return the fields that say by which model a row was measured."""
    path, (type_k, type_v) = engine.model.path, engine.model.cache_types
    return {"model": path.name, "model_hash": model_hash(path)[:12], "type_k": type_k, "type_v": type_v}


def _measure(engine: Engine, case: Case, jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Read the prompt once for all jobs that evict the full cache, and once for each that reads in bounded memory."""
    one_shot = [job for job in jobs if not job.bounded]
    if not jobs:
        return
    prompt = case.prompt(engine)
    if one_shot or case.needs_full:
        read_all(engine, case, prompt)
        # a probe before the end of the prompt needs the cells that left a window
        state = engine.cache.state(of_context=True)
        case.observe(engine)
    for job in one_shot:
        engine.cache.restore(state)
        yield job, _row(engine, case, job, _evict(engine, job, prompt))
    for job in jobs:
        if job.bounded:
            stats = engine.read(prompt, job.policy, parse_budget(job.budget), n_predict=case.n_predict)
            yield job, _row(engine, case, job, Seen(prompt, stats=stats, attention_kept=stats.attention_kept))


def _row(engine: Engine, case: Case, job: Job, seen: Seen) -> dict[str, Any]:
    row = case.measure(engine, job, seen)
    return row if seen.attention_kept is None else row | {"attention_kept": seen.attention_kept}


def _evict(engine: Engine, job: Job, prompt: Prompt) -> Seen:
    policy = job.policy.with_heads(engine.heads)
    n_keep = policy.cells_to_keep(parse_budget(job.budget), len(prompt))
    evicted = policy.evict(engine.cache, n_keep)
    return Seen(prompt, evicted.keep, attention_kept=evicted.attention_kept) if evicted else Seen(prompt)


def read_all(engine: Engine, case: Case, prompt: Prompt) -> None:
    """Read the prompt of a case into a full cache, with room for a branch as large as it. Raises as `Engine.read`."""
    n_cells = 2 * (len(prompt) + case.n_predict)
    engine.read(prompt, FULL.policy, Share(100), n_predict=case.n_predict, n_cells=n_cells, one_shot=True)
