"""Runs the tasks of `dapq-edge eval`."""

from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console

from ..calibration.needles import read_haystack, read_needles
from ..calibration.questions import BUILT_IN, Question, read_questions, read_texts
from ..control import Control
from ..errors import DapqError, UsageError
from ..evaluation import fidelity, ruler
from ..evaluation.needle import needle_cases
from ..evaluation.plots import plot_results
from ..evaluation.relevance import relevance_rows
from ..evaluation.report import write_report
from ..evaluation.results import Results, Row
from ..evaluation.runner import Case, evaluate, jobs_of
from ..evaluation.shared import shared_cases
from ..evaluation.summary import summaries
from ..eviction.budget import Auto, parse_budget
from ..eviction.policies import get_policy
from ..llamacpp.log import captured_log
from ..llamacpp.model import Model
from ..reading.engine import Engine
from ..render.pictures import require_matplotlib
from ..store.types import STORE_TYPES
from .eval import (
    FidelityOptions,
    Measurement,
    NeedleOptions,
    RelevanceOptions,
    ReportOptions,
    RulerOptions,
    SharedOptions,
    Task,
)
from .options import Store
from .printing import show
from .running import check_model, open_engine, progress_bar, shown_in

MakeCases = Callable[[Model], Iterable[Case]]
MakeRows = Callable[[Engine, Results, Control], list[Row]]


def run_needle(options: NeedleOptions) -> int:
    """Hide facts, and ask for them; returns the exit code."""
    haystack = read_haystack(sorted(Path(options.haystack).glob("*.txt")))
    needles = read_needles(Path(options.needles))
    if not haystack:
        raise DapqError(f"no *.txt in {options.haystack}")
    if not all(0 <= depth <= 1 for depth in options.depths):
        raise UsageError("from 0 to 1", param="depths")

    def cases(model: Model) -> Iterable[Case]:
        return needle_cases(
            needles,
            haystack,
            lengths=options.lengths,
            depths=options.depths,
            n_offsets=options.offsets,
            seed=options.seed,
            n_predict=options.predict,
            n_facts=options.facts,
            with_prefix=not options.no_prefix,
            paraphrased=options.paraphrased,
        )

    return _run(options, cases)


def run_ruler(options: RulerOptions) -> int:
    """Run RULER's tasks; returns the exit code."""
    unknown = set(options.tasks) - set(ruler.GENERATORS)
    if unknown:
        raise UsageError(f"{' '.join(sorted(unknown))}: choose of {', '.join(ruler.GENERATORS)}", param="tasks")

    def cases(model: Model) -> Iterable[Case]:
        if options.data:
            return ruler.file_cases(Path(options.data), options.rows, options.predict)
        return ruler.generated_cases(options.tasks, options.lengths, options.rows, options.seed, options.predict)

    return _run(options, cases)


def run_shared(options: SharedOptions) -> int:
    """Ask several questions about one text; returns the exit code."""

    def cases(model: Model) -> Iterable[Case]:
        return shared_cases(
            options.tasks,
            options.modes,
            options.lengths,
            options.rows,
            seed=options.seed,
            n_answer=options.predict,
            reread=options.reread,
            with_store=options.store is not None,
        )

    kept = Store(store=options.store, store_size="8G", store_type=STORE_TYPES[0], no_store=options.store is None)
    return _run(options, cases, options.bounded or options.reread, kept)


def run_fidelity(options: FidelityOptions) -> int:
    """Compare next tokens with those of the full cache; returns the exit code."""

    def cases(model: Model) -> Iterable[Case]:
        for length in options.lengths:
            yield from fidelity.fidelity_cases(Path(options.data), options.rows, length, options.predict, model)

    return _run(options, cases)


def _run(options: Task, make_cases: MakeCases, bounded: bool | None = None, store: Store | None = None) -> int:
    check(options)
    for budget in options.budgets:
        if parse_budget(budget) == Auto():
            raise UsageError("auto: give numbers of cells, or shares", param="budgets")
    for name in options.policies:
        get_policy(name)

    def rows(engine: Engine, results: Results, control: Control) -> list[Row]:
        policies = [get_policy(name, options.granularity, engine.heads) for name in options.policies]
        jobs = jobs_of(policies, options.budgets, options.bounded if bounded is None else bounded)
        cases = list(make_cases(engine.model))
        if not cases:
            raise DapqError("no prompts: the data is empty, or shorter than `lengths`")
        return evaluate(engine, cases, jobs, results, control)

    return measure(options, rows, store)


def check(options: Measurement) -> None:
    """Raise as `check_model` does, and `DapqError` if a picture is wanted that cannot be drawn."""
    check_model(options.model)
    if options.plot:
        require_matplotlib()


def measure(options: Measurement, make_rows: MakeRows, store: Store | None = None) -> int:
    """Open the model, measure, and show what was measured. store: for what is read; without it, nothing is kept."""
    results = Results(Path(options.json) if options.json else None)
    console = Console(stderr=True)
    with captured_log():
        engine = open_engine(options.model, console, heads=options.heads, store=store, seed=options.seed)
        with progress_bar(console) as bar:
            control = Control(shown_in(bar, "evaluating"))
            rows = make_rows(engine, results, control)
    for summary in summaries(rows):
        show(summary.table)
    if options.plot:
        plot_results(rows, Path(options.plot))
    return 0


def run_relevance(options: RelevanceOptions) -> int:
    """Rank the chunks of documents; returns the exit code."""
    check(options)
    data = Path(options.data) if options.data else BUILT_IN / "test.jsonl"
    questions = needle_questions(Path(options.needles)) if options.needles else read_questions(data)
    texts = read_texts(Path(options.haystack) if options.haystack else data.parent)

    def rows(engine: Engine, results: Results, control: Control) -> list[Row]:
        some = questions[: options.rows]
        return relevance_rows(engine, some, texts, options.lengths, results, seed=options.seed, control=control)

    return measure(options, rows)


def needle_questions(path: Path) -> list[Question]:
    """Return the needles of a file as questions in the words of their facts. Raises as `read_needles` does."""
    return [Question(needle.needle.strip(), needle.question, needle.answer) for needle in read_needles(path)]


def run_report(options: ReportOptions) -> int:
    """Write one page of all results; returns the exit code."""
    require_matplotlib()
    print(write_report(Path(options.folder)))
    return 0
