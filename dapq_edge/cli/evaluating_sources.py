"""Runs the tasks of `dapq-edge eval` about sources: what is cited, and what is not there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..calibration.calibrate import BUILT_IN
from ..calibration.questions import BUILT_IN as OUR_QUESTIONS
from ..calibration.questions import read_questions, read_texts
from ..control import Control
from ..counts import count
from ..errors import UsageError
from ..evaluation.absent import Group, absent_rows
from ..evaluation.citations import citations_rows
from ..evaluation.data import unique
from ..evaluation.made import THINGS, made_document, made_questions
from ..evaluation.results import Results, Row
from ..eviction.budget import Auto, parse_budget
from ..eviction.policies import get_policy
from ..reading.engine import Engine
from .eval import AbsentOptions, CitationsOptions
from .evaluating import check, measure, needle_questions
from .options.eviction import DEFAULT_POLICY


def run_citations(options: CitationsOptions) -> int:
    """Ask for facts of pages, and look at the sources; returns the exit code."""
    check(options)
    if parse_budget(options.kv_budget) == Auto():
        raise UsageError("auto: give a number of cells, or a share", param="kv_budget")
    policy, rng = get_policy(options.policy), np.random.default_rng(options.seed)
    folders = [Path(options.haystack)] if options.haystack else [BUILT_IN, OUR_QUESTIONS]
    haystack = "\n\n".join(text for folder in folders for text in read_texts(folder).values())
    facts = made_questions(rng)
    if options.pages > len(facts):
        raise UsageError(f"{options.pages}: there are {len(facts)} facts, one for each page", param="pages")
    if options.questions > options.pages:
        raise UsageError(
            f"{options.questions}: no more than {count(options.pages, 'page')} with a fact", param="questions"
        )
    document = made_document(haystack, facts[: options.pages], rng)
    asked = rng.choice(options.pages, options.questions, replace=False).tolist()

    def rows(engine: Engine, results: Results, control: Control) -> list[Row]:
        return citations_rows(
            engine,
            document,
            facts,
            asked,
            policy,
            options.kv_budget,
            results,
            n_predict=options.predict,
            seed=options.seed,
            control=control,
        )

    return measure(options, rows)


def run_absent(options: AbsentOptions) -> int:
    """Skim texts for facts that are there, and for such that are not; returns the exit code."""
    check(options)
    lengths = options.lengths or ([2048, 32768] if options.haystack else [2048])
    groups = list(_groups(options))

    def rows(engine: Engine, results: Results, control: Control) -> list[Row]:
        return absent_rows(
            engine,
            groups,
            unique(lengths),
            results,
            policy=get_policy(DEFAULT_POLICY).with_heads(engine.heads),
            n_questions=options.questions,
            half=options.half,
            seed=options.seed,
            control=control,
        )

    return measure(options, rows)


def _groups(options: AbsentOptions) -> Iterator[Group]:
    """Yield questions in the words of their facts, and in other words; of a file that is given, these alone."""
    data = Path(options.data) if options.data else OUR_QUESTIONS / "test.jsonl"
    texts = read_texts(Path(options.haystack) if options.haystack else data.parent)
    if options.needles:
        yield Group("the fact's", needle_questions(Path(options.needles)), texts)
    elif not options.data:
        facts = made_questions(np.random.default_rng(options.seed))
        others = [fact.fact for fact in [*facts[len(THINGS) :], *facts[: len(THINGS)]]]
        yield Group("the fact's", facts, texts, others)
    if options.data or not options.needles:
        yield Group("other", read_questions(data), texts)
