"""`dapq-edge eval`: how much of the full cache's answers survives eviction."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console

from .. import native
from ..budgets import Budget
from ..errors import DapqError, UsageError
from ..evaluation import fidelity, ruler
from ..evaluation.needle import needle_cases, read_haystack, read_needles
from ..evaluation.plots import plot_results
from ..evaluation.report import write_report
from ..evaluation.results import Results
from ..evaluation.runner import Case, evaluate, jobs_of
from ..evaluation.summary import summaries
from ..pictures import require_matplotlib
from ..policies import get_policy
from ..reading import ReadingLlama
from .model import check_model_options, load_heads, load_model, progress_bar

MakeCases = Callable[[ReadingLlama], Iterable[Case]]


def run_needle(args: argparse.Namespace) -> int:
    haystack = read_haystack(sorted(Path(args.haystack).glob("*.txt")))
    needles = read_needles(Path(args.needles))
    if not haystack:
        raise DapqError(f"no *.txt in {args.haystack}")
    if not all(0 <= depth <= 1 for depth in args.depths):
        raise UsageError("--depths: from 0 to 1")

    def cases(llama: ReadingLlama) -> Iterable[Case]:
        return needle_cases(
            needles,
            haystack,
            lengths=args.lengths,
            depths=args.depths,
            n_offsets=args.offsets,
            seed=args.seed,
            n_predict=args.predict,
            n_facts=args.facts,
            with_prefix=not args.no_prefix,
            paraphrased=args.paraphrased,
        )

    return _run(args, cases)


def run_ruler(args: argparse.Namespace) -> int:
    unknown = set(args.tasks) - set(ruler.GENERATORS)
    if unknown:
        raise UsageError(f"--tasks {' '.join(sorted(unknown))}: choose of {', '.join(ruler.GENERATORS)}")

    def cases(llama: ReadingLlama) -> Iterable[Case]:
        if args.data:
            return ruler.file_cases(Path(args.data), args.rows, args.predict)
        return ruler.generated_cases(args.tasks, args.lengths, args.rows, args.seed, args.predict)

    return _run(args, cases)


def run_fidelity(args: argparse.Namespace) -> int:
    def cases(llama: ReadingLlama) -> Iterable[Case]:
        for length in args.lengths:
            yield from fidelity.fidelity_cases(Path(args.data), args.rows, length, args.predict, llama)

    return _run(args, cases)


def _run(args: argparse.Namespace, make_cases: MakeCases) -> int:
    check_model_options(args)
    if args.plot:
        require_matplotlib()
    for budget in args.budgets:
        Budget.parse(budget)
    for name in args.policies:
        get_policy(name)
    results = Results(Path(args.json) if args.json else None)
    console = Console(stderr=True)
    with native.captured_log():
        llama = load_model(args, console)
        heads = load_heads(args, llama)
        policies = [get_policy(name, args.granularity, heads) for name in args.policies]
        jobs = jobs_of(policies, args.budgets, args.bounded)
        cases = list(make_cases(llama))
        if not cases:
            raise DapqError("no prompts: the data is empty, or shorter than --lengths")
        with progress_bar(console) as bar:
            task = bar.add_task("evaluating")
            rows = evaluate(
                llama,
                cases,
                jobs,
                results,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    for summary in summaries(rows):
        Console().print(summary.table)
    if args.plot:
        plot_results(rows, Path(args.plot))
    return 0


def run_report(args: argparse.Namespace) -> int:
    require_matplotlib()
    print(write_report(Path(args.folder)))
    return 0
