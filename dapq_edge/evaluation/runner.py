"""Runs policies on prompts."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from ..budgets import Budget
from ..cache import Keep
from ..heads import model_hash
from ..policies import Policy
from ..policies.base import ScoringPolicy
from ..policies.full import Full
from ..reader import Prompt
from ..reading import ReadingLlama, ReadStats
from .data import unique
from .results import Results, Row
from .snapshot import Snapshot

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """A policy and its budget, as they were written.

    bounded: read the prompt in bounded memory, instead of evicting the full cache.
    """

    policy: Policy
    budget: str
    bounded: bool = False

    @property
    def key(self) -> Row:
        policy = self.policy
        # a profile says which chunks are relevant
        heads = policy.heads if self.bounded or policy.needs_heads else None
        return {
            "policy": policy.name,
            "granularity": getattr(policy, "granularity", ""),
            "budget": self.budget,
            "bounded": self.bounded,
            "heads": heads.digest if heads else "",
        }


FULL = Job(Full(), "100%")


@dataclass(frozen=True)
class Seen:
    """What was done before a measurement.

    keep: the cells that were kept of the full cache; stats: how the prompt was read in bounded memory. held: the share
    of the attention that the kept cells hold, see `scores.held`, None if no attention was seen.
    """

    prompt: Prompt
    keep: Keep | None = None
    stats: ReadStats | None = None
    held: float | None = None


class Case(Protocol):
    """One prompt, and what to measure after it was read and evicted."""

    @property
    def key(self) -> Row:
        """Says which prompt it is."""

    @property
    def n_predict(self) -> int:
        """Tokens of the answer."""

    # whether `observe` has to see the full cache
    needs_full: ClassVar[bool]

    def prompt(self, llama: ReadingLlama) -> Prompt:
        """Raises `DapqError` if there is none of the wanted length."""

    def observe(self, llama: ReadingLlama) -> None:
        """Called with the full cache, before anything is measured; it may change the cache."""

    def measure(self, llama: ReadingLlama, job: Job, seen: Seen) -> Row:
        """What the cache as it is now gives."""


def jobs_of(policies: Sequence[Policy], budgets: Sequence[str], bounded: bool = False) -> list[Job]:
    """The full cache, and all policies with all budgets."""
    wanted = {policy.name: policy for policy in policies if policy.name != FULL.policy.name}
    pairs = itertools.product(wanted.values(), unique(budgets))
    return [FULL, *(Job(policy, budget, bounded) for policy, budget in pairs)]


def evaluate(
    llama: ReadingLlama, cases: Iterable[Case], jobs: Sequence[Job], results: Results, *, progress: Progress
) -> list[Row]:
    """Measure all jobs on all cases but those that `results` has; returns the rows of all of them.

    Raises `DapqError` as `ReadingLlama.read` and `Policy.check` do.
    """
    cases, model = list(cases), _model_key(llama)
    total = len(cases) * len(jobs)
    for job in jobs:
        job.policy.check(llama.kv_cache)
    progress(0, total)
    for done, case in enumerate(cases):
        key = case.key | model
        todo = [job for job in jobs if results.get(key | job.key) is None]
        for i, (job, row) in enumerate(_measure(llama, case, todo), start=1):
            results.add(key | job.key, row)
            progress(done * len(jobs) + i, total)
        progress((done + 1) * len(jobs), total)
    rows = (results.get(case.key | model | job.key) for case in cases for job in jobs)
    return [row for row in rows if row is not None]


def _model_key(llama: ReadingLlama) -> Row:
    path, (type_k, type_v) = Path(llama.model_path), llama.cache_types
    return {"model": path.name, "model_hash": model_hash(path)[:12], "type_k": type_k, "type_v": type_v}


def _measure(llama: ReadingLlama, case: Case, jobs: Sequence[Job]) -> Iterator[tuple[Job, Row]]:
    """Read the prompt once for all jobs that evict the full cache, and once for each that reads in bounded memory."""
    one_shot = [job for job in jobs if not job.bounded]
    if not jobs:
        return
    prompt = case.prompt(llama)
    if one_shot or case.needs_full:
        _read_all(llama, case, prompt)
        snapshot = Snapshot(llama)
        case.observe(llama)
    for job in one_shot:
        snapshot.restore()
        yield job, _row(llama, case, job, _evict(llama, job, prompt))
    for job in jobs:
        if job.bounded:
            stats = llama.read(prompt, job.policy, Budget.parse(job.budget), n_predict=case.n_predict)
            yield job, _row(llama, case, job, Seen(prompt, stats=stats, held=stats.held))


def _row(llama: ReadingLlama, case: Case, job: Job, seen: Seen) -> Row:
    row = case.measure(llama, job, seen)
    return row if seen.held is None else row | {"held": seen.held}


def _evict(llama: ReadingLlama, job: Job, prompt: Prompt) -> Seen:
    cache, policy = llama.kv_cache, job.policy
    n_keep = policy.cells_to_keep(Budget.parse(job.budget), len(prompt))
    if not isinstance(policy, ScoringPolicy) or n_keep >= len(prompt):
        return Seen(prompt)
    scores = policy.scores(cache, n_keep)
    keep = policy.select(cache, scores, n_keep)
    cache.evict(keep)
    return Seen(prompt, keep=keep, held=policy.held(scores, keep))


def _read_all(llama: ReadingLlama, case: Case, prompt: Prompt) -> None:
    # room for a branch as large as the prompt
    n_cells = 2 * (len(prompt) + case.n_predict)
    llama.read(prompt, FULL.policy, Budget.parse(FULL.budget), n_predict=case.n_predict, n_cells=n_cells, one_shot=True)
