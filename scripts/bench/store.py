"""Questions about one text, of which the store keeps what was read.

    .venv/bin/python scripts/bench/store.py questions --text ESSAYS.txt --lengths 8192 32768 --plot questions.png
    .venv/bin/python scripts/bench/store.py questions --text ESSAYS.txt --lengths 32768 --stock
    .venv/bin/python scripts/bench/store.py ranks

questions: seconds to the first token, tokens that are evaluated, bytes on disk, and memory. All windows are looked at
for each question (`--skim all`). With `--stock` the same questions by `llama_cpp.Llama`, which keeps the full cache.
ranks: the chunk that a question finds first, by windows from the store and by fresh ones, for each type of files.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from rich.console import Console
from rich.table import Table

from dapq_edge import Cells, chat_prompt, find_model, get_policy, open_model
from dapq_edge.calibration.questions import BUILT_IN, ask_all, read_questions, read_texts
from dapq_edge.cells import CHUNK
from dapq_edge.files import read_text
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.planning.ram import MIB
from dapq_edge.prompt.window import window_of
from dapq_edge.reading.asking import ask_window
from dapq_edge.reading.engine import Engine
from dapq_edge.reading.plan import N_SKIM
from dapq_edge.reading.skimming import skimming_of
from dapq_edge.reading.windows import N_OVERLAP, SIZES, excerpts
from dapq_edge.render.pictures import require_matplotlib, save
from dapq_edge.store.types import STORE_TYPES

N_QUESTIONS = 10

# tokens that are probed at once
N_QUERIES = 64


@dataclass(frozen=True)
class Asked:
    """What a question cost."""

    n_tokens: int
    seconds: float
    n_evaluated: int = 0
    n_windows: int = 0
    n_stored: int = 0
    relevance: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Process:
    """What a process did: its questions, and its memory at most."""

    asked: list[Asked]
    bytes_peak: int


def document_of(model: Any, args: argparse.Namespace) -> str:
    tokens = model.tokenize(read_text(args.text)[: 16 * args.lengths[0]])[: args.lengths[0]]
    return str(model.detokenize(tokens).decode("utf-8", "ignore"))


def ask(engine: Engine, document: str, question: str, args: argparse.Namespace) -> Asked:
    prompt = chat_prompt(engine.model, document, question)
    start = time.perf_counter()
    stats = engine.read(prompt, get_policy("fused"), Cells(args.kv_budget), n_predict=1)
    next(engine.stream(1), None)
    seconds = time.perf_counter() - start
    relevance = [chunk.relevance for chunk in stats.chunks]
    return Asked(len(prompt), seconds, stats.tokens_evaluated, stats.n_windows[1], stats.n_stored, relevance)


def ours(args: argparse.Namespace) -> list[Asked]:
    options = {"skim": "all", "store": args.store, "store_type": args.store_type}
    engine = open_model(find_model(args.model), n_threads=args.threads, **options)
    document, questions = document_of(engine.model, args), read_questions(BUILT_IN / "test.jsonl")
    asked = [ask(engine, document, questions[number].question, args) for number in args.numbers]
    engine.close()
    return asked


def stock(args: argparse.Namespace) -> list[Asked]:
    """By `llama_cpp.Llama`, whose cache has all of the text for the next question."""
    engine = open_model(find_model(args.model), n_threads=args.threads)
    document, questions = document_of(engine.model, args), read_questions(BUILT_IN / "test.jsonl")
    engine.close()
    options = {"n_threads": args.threads, "n_threads_batch": args.threads, "flash_attn": True, "verbose": False}
    llama = llama_cpp.Llama(str(find_model(args.model)), n_ctx=args.lengths[0] + 1024, **options)
    asked = []
    for number in args.numbers:
        message = {"role": "user", "content": f"{document}\n\n{questions[number].question}"}
        start = time.perf_counter()
        result = llama.create_chat_completion([message], max_tokens=1, temperature=0)
        asked.append(Asked(result["usage"]["prompt_tokens"], time.perf_counter() - start))
    return asked


def apart(task: str, args: argparse.Namespace, n_tokens: int, numbers: list[int], store: str = "") -> Process:
    """Ask in a process of its own; loading the model is not counted."""
    job = json.dumps({"job": task, "lengths": [n_tokens], "numbers": numbers, "store": store})
    command = [sys.executable, __file__, "questions", "--text", str(args.text), "-m", args.model, "--job", job]
    command += ["--kv-budget", str(args.kv_budget), "-t", str(args.threads), "--store-type", args.store_type]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    made = json.loads(result.stdout)
    return Process([Asked(**one) for one in made["asked"]], made["bytes_peak"])


def questions(args: argparse.Namespace) -> None:
    times: dict[str, list[float]] = {}
    for n_tokens in args.lengths:
        with tempfile.TemporaryDirectory() as store, tempfile.TemporaryDirectory() as other:
            one = apart("ours", args, n_tokens, list(range(N_QUESTIONS)), store)
            again = apart("ours", args, n_tokens, [N_QUESTIONS], store)
            fresh = apart("ours", args, n_tokens, [1], other)
            n_bytes = sum(path.stat().st_size for path in Path(store).glob("*.kv"))
        pairs = zip(one.asked[1].relevance, fresh.asked[0].relevance, strict=True)
        difference = max(abs(a - b) for a, b in pairs)
        rows = [("first", one.asked[:1]), ("others, median", one.asked[1:]), ("in another process", again.asked)]
        times[f"{n_tokens:,} tokens"] = [asked.seconds for asked in one.asked]
        peaks = [one.bytes_peak, one.bytes_peak, again.bytes_peak]
        if args.stock:
            whole = apart("stock", args, n_tokens, list(range(N_QUESTIONS)))
            rows += [("stock: first", whole.asked[:1]), ("stock: others, median", whole.asked[1:])]
            peaks += [whole.bytes_peak] * 2
            times[f"{n_tokens:,} tokens, stock"] = [asked.seconds for asked in whole.asked]
        title = (
            f"{one.asked[0].n_tokens:,} tokens, {args.kv_budget:,} cells, {args.store_type}: {n_bytes / MIB:,.0f} MiB "
            f"on disk; relevance of the second question against fresh windows: {difference:.2g} at most"
        )
        print_table(title, rows, peaks)
        totals = ", ".join(f"{name}: {sum(seconds):.1f} s" for name, seconds in times.items())
        print(f"{N_QUESTIONS} questions: {totals}", flush=True)
    if args.plot:
        draw(times, args.plot)


def print_table(title: str, rows: list[tuple[str, list[Asked]]], peaks: list[int]) -> None:
    table = Table(title=title)
    for heading in ("question", "windows", "stored", "tokens evaluated", "seconds", "of the first", "memory, MiB"):
        table.add_column(heading, justify="left" if heading == "question" else "right")
    first = rows[0][1][0].seconds
    for (name, asked), peak in zip(rows, peaks, strict=True):
        seconds = statistics.median(one.seconds for one in asked)
        n_evaluated = max(one.n_evaluated for one in asked)
        counts = f"{asked[0].n_windows:,}", f"{min(one.n_stored for one in asked):,}", f"{n_evaluated:,}"
        table.add_row(name, *counts, f"{seconds:.2f}", f"{seconds / first:.3f}", f"{peak / MIB:,.0f}")
    Console(width=130).print(table)


def draw(times: dict[str, list[float]], path: Path) -> None:
    require_matplotlib()
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.4))
    for name, seconds in times.items():
        axes.plot(range(1, len(seconds) + 1), seconds, marker="o", markersize=3, label=name)
    axes.set(xlabel="question", ylabel="seconds to the first token", yscale="log")
    axes.legend()
    figure.tight_layout()
    save(figure, path)


def ranks(args: argparse.Namespace) -> None:
    """Print how often the chunk that is first by stored windows is the one that is first by fresh ones."""
    names, texts = ("calibrate", "test"), read_texts(BUILT_IN)
    every = list(chain.from_iterable(read_questions(BUILT_IN / f"{name}.jsonl") for name in names))
    for store_type in STORE_TYPES:
        with tempfile.TemporaryDirectory() as store:
            options = {"skim": "all", "store": store, "store_type": store_type}
            engine = open_model(find_model(args.model), n_threads=args.threads, **options)
            pairs = list(compare(engine, every, texts, args))
            engine.close()
        n_same = sum(np.argmax(fresh) == np.argmax(stored) for fresh, stored in pairs)
        difference = max(np.abs(np.subtract(fresh, stored)).max() for fresh, stored in pairs)
        print(f"{store_type}: the same chunk first for {n_same} of {len(pairs)}; relevance differs by {difference:.2g}")


def compare(
    engine: Engine, questions: list[Any], texts: dict[str, str], args: argparse.Namespace
) -> Iterator[tuple[list[float], list[float]]]:
    """Yield the relevance of the chunks of each prompt by fresh windows, and by those from the store."""
    evidence, store = skimming_of(engine.model, engine.heads, engine.skim).evidence, engine.store.windows
    engine.open(N_SKIM + CHUNK)
    cache = engine.cache
    for case in ask_all(engine.model, questions, texts, args.lengths[0]):
        around, fresh, stored = window_of(case.prompt), [], []
        assert not evidence.tail(around)
        with evidence.depth(cache):
            for window in excerpts([len(case.prompt.body)], SIZES[0] + N_OVERLAP):
                asked = cache, case.prompt, around, window, evidence, N_QUERIES, cache.read
                fresh += ask_window(*asked).relevance
                store.save(cache, evidence.key, evidence.baseline(cache))
                found = ask_window(*asked, store)
                assert found.is_stored
                stored += found.relevance
        yield fresh, stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["questions", "ranks"])
    parser.add_argument("--text", type=Path)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048])
    parser.add_argument("--kv-budget", type=int, default=1024)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--store-type", choices=STORE_TYPES, default=STORE_TYPES[0])
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.job:
        {"questions": questions, "ranks": ranks}[args.task](args)
        return
    vars(args).update(args.job)
    asked = {"ours": ours, "stock": stock}[args.job](args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"asked": [asdict(one) for one in asked], "bytes_peak": peak}))


if __name__ == "__main__":
    with captured_log():
        main()
