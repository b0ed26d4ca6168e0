"""What it is worth that an answer begins with what its eviction looked ahead to: what is found, and seconds.

.venv/bin/python scripts/bench/beginning.py --json beginning.jsonl

RULER's prompts are read at once, evicted and answered, twice in turn: as users get it, and from the kept cells alone.
Of what the full cache answers in 96 tokens, half of which were written ahead, the share that is found, with its 95%
interval; and the seconds of an answer, behind reading and eviction, and the median of the ratio.
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from resuming import measured

from dapq_edge import Engine, Fused, find_model, open_model
from dapq_edge.evaluation.answers import AnswerCase
from dapq_edge.evaluation.estimates import share_of
from dapq_edge.evaluation.ruler import generated_cases
from dapq_edge.eviction.budget import parse_budget
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.reading.beginning import Beginning

KINDS, N_ANSWER = ("multikey", "multivalue", "multiquery"), 96


def answered(engine: Engine, case: AnswerCase) -> tuple[list[bool], float]:
    """Return which of the outputs an answer has, and the seconds that it took."""
    start = time.perf_counter()
    answer = "".join(engine.stream(N_ANSWER)).lower()
    # what was not read so far belongs to it
    _ = engine.usage
    return [output.lower() in answer for output in case.outputs], time.perf_counter() - start


def measure(engine: Engine, case: AnswerCase, budget: str) -> dict[str, Any]:
    prompt = case.prompt(engine)
    # in the same batches as below: others round otherwise, and some answers are near-ties
    engine.open(len(prompt) + N_ANSWER)
    engine.cache.read(prompt.text)
    engine.cache.read(prompt.end)
    tokens, _ = engine.cache.look_ahead(N_ANSWER)
    answer = engine.model.detokenize(tokens).decode("utf-8", "replace").lower()
    full = [output.lower() in answer for output in case.outputs]
    row: dict[str, Any] = {"task": case.key["task"], "of": sum(full)}
    for name in ("begun", "alone"):
        with patch.object(Beginning, "start", lambda self, **_: None) if name == "alone" else nullcontext():
            engine.read(prompt, Fused(), parse_budget(budget), n_predict=N_ANSWER, one_shot=True)
        found, row[f"{name} seconds"] = answered(engine, case)
        row[name] = sum(a and b for a, b in zip(found, full, strict=True))
    return row


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| | prompts | as users get it | from the kept cells alone | seconds | alone | times |", "|" + "---|" * 7]
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task and row["of"]]
        shares = [share_of([row[name] / row["of"] for row in of_task]).percent for name in ("begun", "alone")]
        seconds = [[row[f"{name} seconds"] for row in of_task] for name in ("begun", "alone")]
        ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
        took = [f"{statistics.median(part):.2f}" for part in seconds]
        lines.append(f"| {task} | {len(of_task)} | {' | '.join([*shares, *took])} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=16, help="prompts of each kind (default: 16)")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--budget", default="64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="results, JSONL; a rerun resumes from it")
    args = parser.parse_args()
    engine = open_model(find_model(args.model), n_threads=args.threads, flash_attn=True)
    cases = generated_cases(KINDS, [args.length], args.rows, args.seed, N_ANSWER)
    print(table(measured(cases, lambda case: measure(engine, case, args.budget), args.json)))


if __name__ == "__main__":
    with captured_log():
        main()
