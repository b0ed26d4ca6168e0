"""Questions about long documents: by the best chunks of a lexical search, as retrieval tools do, by skimming, and by
the full cache.

    .venv/bin/python scripts/bench/skim.py --haystack DIR --needles FILE

Half of the questions use the words of the fact (the needles), half use other words (the test half of our own). "read"
counts the prompts whose fact was in what the answer was written from, "found" those whose answer is right. `guess` is
the skim of a model without query heads.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dapq_edge import Cells, Share, find_model, get_policy, open_model
from dapq_edge.calibration.needles import read_haystack, read_needles
from dapq_edge.calibration.questions import BUILT_IN, Asked, Question, ask_all, read_questions
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.planning.ram import MIB
from dapq_edge.prompt.chat_template import chat_prompt
from dapq_edge.prompt.window import window_of
from dapq_edge.reading.engine import Engine
from dapq_edge.reading.lexical import match
from dapq_edge.reading.windows import N_SPAN, split

# tokens of the chat template and the question, beside the chunks of a search
N_AROUND = 96


@dataclass(frozen=True)
class Reading:
    """Whether the fact was in what the answer is written from, and bytes of K and V at most."""

    has_fact: bool
    bytes_peak: int


def retrieve(engine: Engine, case: Asked, args: argparse.Namespace) -> Reading:
    model, body = engine.model, case.prompt.body
    chunks = split(range(len(body)), N_SPAN)
    texts = [_spell(engine, body[chunk.start : chunk.stop]) for chunk in chunks]
    question = _spell(engine, window_of(case.prompt).asking)
    scores = match(question, texts).scores
    n_best = max(1, (args.kv_budget - N_AROUND) // N_SPAN)
    best = sorted(sorted(range(len(chunks)), key=lambda i: -scores[i])[:n_best])
    prompt = chat_prompt(model, "\n\n".join(texts[i] for i in best), question)
    stats = engine.read(prompt, get_policy("full"), Share(100), n_predict=args.predict)
    return Reading(any(_middle(case) in chunks[i] for i in best), stats.bytes_peak)


def skim(engine: Engine, case: Asked, args: argparse.Namespace) -> Reading:
    stats = engine.read(case.prompt, get_policy("fused"), Cells(args.kv_budget), n_predict=args.predict)
    has_fact = any(chunk.is_read and chunk.start <= _middle(case) < chunk.stop for chunk in stats.chunks)
    return Reading(has_fact, stats.bytes_peak)


def guess(engine: Engine, case: Asked, args: argparse.Namespace) -> Reading:
    heads, engine.heads = engine.heads, engine.heads and replace(engine.heads, query=())
    try:
        return skim(engine, case, args)
    finally:
        engine.heads = heads


def read_all(engine: Engine, case: Asked, args: argparse.Namespace) -> Reading:
    options = {"n_predict": args.predict, "one_shot": True, "allow_overflow": True}
    return Reading(True, engine.read(case.prompt, get_policy("full"), Share(100), **options).bytes_peak)


WAYS: dict[str, Callable[[Engine, Asked, argparse.Namespace], Reading]] = {
    "retrieval": retrieve,
    "skim": skim,
    "guess": guess,
    "full cache": read_all,
}


def _spell(engine: Engine, tokens: list[int]) -> str:
    return engine.model.detokenize(tokens).decode("utf-8", "replace")


def _middle(case: Asked) -> int:
    return (case.fact.start + case.fact.stop) // 2


@dataclass(frozen=True)
class Result:
    """What a way made of a question."""

    way: str
    kind: str
    n_tokens: int
    has_fact: bool
    is_found: bool
    seconds: float
    bytes_peak: int


def results(engine: Engine, cases: Sequence[tuple[str, Question, Asked]], args: argparse.Namespace) -> Iterator[Result]:
    """Yield the results of all ways for each question, one way after the other."""
    for kind, question, case in cases:
        for way in args.ways:
            start = time.perf_counter()
            reading = WAYS[way](engine, case, args)
            answer = engine.stream(args.predict)
            first = next(answer, "")
            seconds = time.perf_counter() - start
            is_found = question.answer.lower() in (first + "".join(answer)).lower()
            n_tokens = len(case.prompt)
            yield Result(way, kind, n_tokens, reading.has_fact, is_found, seconds, reading.bytes_peak)


def cases_of(engine: Engine, args: argparse.Namespace, n_tokens: int) -> list[tuple[str, Question, Asked]]:
    haystack = {"": read_haystack(sorted(args.haystack.glob("*.txt")))}
    needles = read_needles(args.needles)
    literal = [Question(needle.needle.strip(), needle.question, needle.answer) for needle in needles]
    other = read_questions(BUILT_IN / "test.jsonl")
    # some of each style
    other = other[:: max(1, len(other) // args.questions)]
    cases = []
    for kind, questions in (("its words", literal), ("other words", other)):
        asked = ask_all(engine.model, questions[: args.questions], haystack, n_tokens, args.seed)
        cases += [(kind, question, case) for question, case in zip(questions, asked, strict=False)]
    return cases


def print_table(rows: Sequence[Result], n_tokens: int, kv_budget: int) -> None:
    table = Table(title=f"{n_tokens:,} tokens, {kv_budget:,} cells; seconds to the first token are medians")
    for heading in ("asked in", "by", "prompts", "read", "found", "seconds", "K and V, MiB"):
        table.add_column(heading, justify="left" if heading in ("asked in", "by") else "right")
    for kind, way in dict.fromkeys((row.kind, row.way) for row in rows):
        some = [row for row in rows if (row.kind, row.way) == (kind, way)]
        n_read, n_found = sum(row.has_fact for row in some), sum(row.is_found for row in some)
        seconds, peak = statistics.median(row.seconds for row in some), max(row.bytes_peak for row in some)
        numbers = len(some), n_read, n_found, f"{seconds:.1f}", f"{peak / MIB:.0f}"
        table.add_row(kind, way, *map(str, numbers))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haystack", type=Path, required=True)
    parser.add_argument("--needles", type=Path, required=True)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["retrieval", "skim", "full cache"])
    parser.add_argument("--questions", type=int, default=6, help="of each kind")
    parser.add_argument("--kv-budget", type=int, default=1024)
    parser.add_argument("-n", "--predict", type=int, default=24)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    engine = open_model(find_model(args.model), n_threads=args.threads)
    for n_tokens in args.lengths:
        rows = []
        for result in results(engine, cases_of(engine, args, n_tokens), args):
            rows.append(result)
            print(result, flush=True)
        print_table(rows, n_tokens, args.kv_budget)


if __name__ == "__main__":
    with captured_log():
        main()
