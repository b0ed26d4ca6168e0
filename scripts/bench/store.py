"""Questions about one text, of which the store keeps what was read: seconds to the first token, and bytes on disk.

    .venv/bin/python scripts/bench/store.py --text ESSAYS.txt --lengths 8192 32768

All windows are looked at for each question (`--skim all`). The last row is of a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dapq_edge import Cells, chat_prompt, find_model, get_policy, open_model
from dapq_edge.calibration.questions import BUILT_IN, read_questions
from dapq_edge.files import read_text
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.planning.ram import MIB


@dataclass(frozen=True)
class Asked:
    """What a question cost."""

    n_tokens: int
    n_windows: int
    n_stored: int
    n_evaluated: int
    seconds: float
    relevance: list[float]


def ask(args: argparse.Namespace, store: str, n_tokens: int, numbers: list[int]) -> list[Asked]:
    engine = open_model(find_model(args.model), n_threads=args.threads, skim="all", store=store)
    questions, text = read_questions(BUILT_IN / "test.jsonl"), read_text(args.text)
    tokens = engine.model.tokenize(text[: 16 * n_tokens])[:n_tokens]
    document, results = engine.model.detokenize(tokens).decode("utf-8", "ignore"), []
    for number in numbers:
        prompt = chat_prompt(engine.model, document, questions[number].question)
        start = time.perf_counter()
        stats = engine.read(prompt, get_policy("fused"), Cells(args.kv_budget), n_predict=1)
        next(engine.stream(1), None)
        seconds = time.perf_counter() - start
        relevance = [chunk.relevance for chunk in stats.chunks]
        counts = len(prompt), stats.n_windows[1], stats.n_stored, stats.tokens_evaluated
        results.append(Asked(*counts, seconds, relevance))
    engine.close()
    return results


def ask_apart(args: argparse.Namespace, store: str, n_tokens: int, number: int) -> Asked:
    """Ask in a process of its own; loading the model is not counted."""
    job = json.dumps({"store": store, "n_tokens": n_tokens, "numbers": [number]})
    command = [sys.executable, __file__, "--text", str(args.text), "-m", args.model, "--job", job]
    command += ["--kv-budget", str(args.kv_budget), "-t", str(args.threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return Asked(**json.loads(result.stdout))


def print_table(args: argparse.Namespace, n_tokens: int) -> None:
    with tempfile.TemporaryDirectory() as store, tempfile.TemporaryDirectory() as other:
        asked = ask(args, store, n_tokens, [0, 1, 2])
        asked.append(ask_apart(args, store, n_tokens, 3))
        (fresh,) = ask(args, other, n_tokens, [1])
        n_bytes = sum(path.stat().st_size for path in Path(store).glob("*.kv"))
    difference = max(abs(a - b) for a, b in zip(asked[1].relevance, fresh.relevance, strict=True))
    table = Table(
        title=f"{asked[0].n_tokens:,} tokens, {args.kv_budget:,} cells: {n_bytes / MIB:,.0f} MiB on disk; "
        f"relevance of the second question against fresh windows: {difference:g}"
    )
    for heading in ("question", "windows", "stored", "tokens evaluated", "seconds", "of the first"):
        table.add_column(heading, justify="left" if heading == "question" else "right")
    for name, one in zip(("first", "second", "third", "in another process"), asked, strict=True):
        ratio = f"{one.seconds / asked[0].seconds:.3f}"
        counts = f"{one.n_windows:,}", f"{one.n_stored:,}", f"{one.n_evaluated:,}"
        table.add_row(name, *counts, f"{one.seconds:.2f}", ratio)
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192])
    parser.add_argument("--kv-budget", type=int, default=1024)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        (one,) = ask(args, **args.job)
        print(json.dumps(asdict(one)))
        return
    for n_tokens in args.lengths:
        print_table(args, n_tokens)


if __name__ == "__main__":
    with captured_log():
        main()
