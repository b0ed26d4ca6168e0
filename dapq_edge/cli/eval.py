"""`dapq-edge eval`: how much of the full cache's answers survives eviction."""

from dataclasses import dataclass

from .command import Command, CommandGroup
from .options import RunningModel, group, option
from .options.arguments import positive_or
from .options.eviction import DEFAULT_POLICY

KINDS = ("single", "multikey", "multivalue", "multiquery", "tracking")
SHAPES = ("keys", "repeated", "shots")
MODES = ("turns", "requests")
BUDGETS = ("64", "128", "256")
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class _Lengths:
    """Options of tasks that make prompts of some lengths."""

    lengths: list[int] = option(
        "--lengths",
        type=positive_or(),
        nargs="+",
        default=[2048],
        metavar="N",
        help="tokens of a prompt (default: 2048)",
    )


@dataclass(frozen=True)
class Measurement:
    """Options of all tasks that measure a model."""

    heads: str | None = option("--heads", metavar="FILE", help="head profile (default: the one that was calibrated)")
    seed: int = option("--seed", type=positive_or(0), default=0, metavar="N", help="of what is random (default: 0)")
    json: str | None = option(
        "--json", metavar="OUT.jsonl", help="append results, and resume from those that are there"
    )
    plot: str | None = option("--plot", metavar="OUT.png", help="draw the results (needs matplotlib)")
    model: RunningModel = group("model")


@dataclass(frozen=True)
class Task(Measurement, _Lengths):
    """Options of all tasks that evict."""

    budgets: list[str] = option(
        "--budgets",
        nargs="+",
        default=list(BUDGETS),
        metavar="N|P%",
        help=f"cells to keep (default: {' '.join(BUDGETS)})",
    )
    policies: list[str] = option(
        "--policies", nargs="+", default=[DEFAULT_POLICY], metavar="NAME", help=f"default: {DEFAULT_POLICY}"
    )
    granularity: str = option(
        "--granularity", choices=["head", "layer", "cell"], default="head", help="who keeps its own (default: head)"
    )
    bounded: bool = option("--bounded", action="store_true", help="read in bounded memory for each policy and budget")
    predict: int = option(
        "-n",
        "--predict",
        type=positive_or(),
        default=48,
        metavar="N",
        help="tokens of the answer (default: 48)",
    )


@dataclass(frozen=True)
class NeedleOptions(Task):
    """Options of `needle`."""

    haystack: str = option("--haystack", required=True, metavar="DIR", help="folder with *.txt")
    needles: str = option("--needles", required=True, metavar="FILE", help="facts, questions and answers, JSONL")
    predict: int = option(
        "-n", "--predict", type=positive_or(), default=12, metavar="N", help="tokens of the answer (default: 12)"
    )
    depths: list[float] = option(
        "--depths",
        type=float,
        nargs="+",
        default=list(DEPTHS),
        metavar="D",
        help="where the fact is, 0 to 1 (default: five)",
    )
    offsets: int = option(
        "--offsets", type=positive_or(), default=1, metavar="N", help="parts of the haystack (default: 1)"
    )
    facts: int = option("--facts", type=positive_or(), default=1, metavar="N", help="facts in a prompt (default: 1)")
    no_prefix: bool = option("--no-prefix", action="store_true", help="without the first words of the answer")
    paraphrased: bool = option("--paraphrased", action="store_true", help="ask with other words")


@dataclass(frozen=True)
class _Rows(Task):
    """Tasks of a file."""

    rows: int = option("--rows", type=positive_or(), default=20, metavar="N", help="prompts (default: 20)")


@dataclass(frozen=True)
class RulerOptions(_Rows):
    """Options of `ruler`."""

    data: str | None = option("--data", metavar="FILE", help="rows of RULER, JSONL (default: generate them)")
    tasks: list[str] = option(
        "--tasks", nargs="+", default=list(KINDS), metavar="TASK", help=f"default: {' '.join(KINDS)}"
    )


@dataclass(frozen=True)
class SharedOptions(_Rows):
    """Options of `shared`."""

    predict: int = option(
        "-n", "--predict", type=positive_or(), default=12, metavar="N", help="tokens of each answer (default: 12)"
    )
    tasks: list[str] = option(
        "--tasks",
        nargs="+",
        choices=SHAPES,
        default=list(SHAPES),
        metavar="TASK",
        help=f"default: {' '.join(SHAPES)}",
    )
    modes: list[str] = option(
        "--modes", nargs="+", choices=MODES, default=list(MODES), metavar="MODE", help=f"default: {' '.join(MODES)}"
    )
    reread: bool = option("--reread", action="store_true", help="read again for each question, in bounded memory")
    store: str | None = option(
        "--store", metavar="DIR", help="folder that keeps what is read, for --reread (default: nothing is kept)"
    )


@dataclass(frozen=True)
class FidelityOptions(_Rows):
    """Options of `fidelity`."""

    data: str = option("--data", required=True, metavar="FILE", help="rows of LongBench, JSONL")


@dataclass(frozen=True)
class RelevanceOptions(Measurement, _Lengths):
    """Options of `relevance`."""

    data: str | None = option(
        "--data", metavar="FILE", help="questions, JSONL, with *.txt beside it (default: the test half of our own)"
    )
    needles: str | None = option(
        "--needles", metavar="FILE", help="instead, facts that are asked for in their own words, JSONL"
    )
    haystack: str | None = option("--haystack", metavar="DIR", help="folder with *.txt (default: beside the questions)")
    rows: int | None = option("--rows", type=positive_or(), metavar="N", help="questions of each length (default: all)")


@dataclass(frozen=True)
class CitationsOptions(Measurement):
    """Options of `citations`."""

    haystack: str | None = option(
        "--haystack", metavar="DIR", help="folder with *.txt (default: our own, which have room for 25 pages)"
    )
    pages: int = option(
        "--pages", type=positive_or(), default=100, metavar="N", help="of the text, with a fact on each (default: 100)"
    )
    questions: int = option(
        "--questions", type=positive_or(), default=40, metavar="N", help="facts that are asked for (default: 40)"
    )
    kv_budget: str = option("--kv-budget", default="1024", metavar="N|P%", help="cells to keep (default: 1024)")
    policy: str = option("--policy", default=DEFAULT_POLICY, metavar="NAME", help=f"default: {DEFAULT_POLICY}")
    predict: int = option(
        "-n", "--predict", type=positive_or(), default=40, metavar="N", help="tokens of the answer (default: 40)"
    )


@dataclass(frozen=True)
class AbsentOptions(Measurement):
    """Options of `absent`."""

    lengths: list[int] | None = option(
        "--lengths",
        type=positive_or(),
        nargs="+",
        metavar="N",
        help="tokens of a text (default: 2048, and with --haystack 32768, too)",
    )
    data: str | None = option(
        "--data",
        metavar="FILE",
        help="questions in other words than their facts, JSONL, with *.txt beside it (default: the test half of our "
        "own, unless there are --needles)",
    )
    needles: str | None = option(
        "--needles",
        metavar="FILE",
        help="facts that are asked for in their own words, JSONL (default: made ones, unless there is --data)",
    )
    haystack: str | None = option("--haystack", metavar="DIR", help="folder with *.txt (default: beside the questions)")
    questions: int = option(
        "--questions",
        type=positive_or(),
        default=60,
        metavar="N",
        help="of each kind, again at another place if there are fewer (default: 60)",
    )
    half: str = option(
        "--half",
        choices=["choose", "report", "all"],
        default="all",
        help="questions with even numbers, to choose limits, or odd ones, to report them (default: all)",
    )


@dataclass(frozen=True)
class ReportOptions:
    """Options of `report`."""

    folder: str = option("folder", metavar="DIR", help="folder with the files that --json made")


COMMAND = CommandGroup(
    "eval",
    "measure how much of the full cache's answers survives eviction",
    "task",
    (
        Command("needle", "facts in unrelated text", NeedleOptions, "evaluating:run_needle"),
        Command("ruler", "tasks of RULER", RulerOptions, "evaluating:run_ruler"),
        Command("shared", "several questions about one text", SharedOptions, "evaluating:run_shared"),
        Command("fidelity", "KL divergence to the full cache", FidelityOptions, "evaluating:run_fidelity"),
        Command("relevance", "rank of the chunk that answers", RelevanceOptions, "evaluating:run_relevance"),
        Command(
            "citations", "right pages and sentences of sources", CitationsOptions, "evaluating_sources:run_citations"
        ),
        Command("absent", "facts that are not in the text", AbsentOptions, "evaluating_sources:run_absent"),
        Command("report", "one page of all results in a folder", ReportOptions, "evaluating:run_report"),
    ),
)
