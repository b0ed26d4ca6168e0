"""Related systems, also those that the patch cannot run, against fused with layers that are alike, as Markdown tables.

.venv/bin/python scripts/bench/related.py --news FILE --haystack DIR --needles FILE --json related.jsonl

The model is evaluated in numpy (`simulation/`), so that each KV head may keep its own number of cells, and cells may be
changed. All systems keep as many cells, or bytes, as fused, and score with it, if nothing else is said. News count as
KL divergence to the full cache along its own answer, and its geometric mean ratio to fused on the same news with its
interval of 95%. Of needles, of RULER (multi-key, multi-value and multi-query), and of second questions, which come when
the first one has decided what is kept, that counts which the full cache finds: each of its tokens has to be the most
probable one. "Seconds" is what a system computes beside the probe of fused, in numpy: the median.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ablation import divergence
from simulation.reading import Reading, read
from simulation.subject import Subject
from simulation.systems import BASE, SYSTEMS
from simulation.tasks import N_ANSWER, PROMPTS, Task, tasks_of
from simulation.transformer import Cache, Transformer

from dapq_edge import find_model, open_model
from dapq_edge.eviction.heads import HeadProfile, find_profile
from dapq_edge.files import read_jsonl
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.llamacpp.model import Model

# caches whose answers are computed at once
N_BATCH = 6

Job = tuple[str, int]


def measure(
    model: Transformer, profile: HeadProfile, words: Model, task: Task, jobs: Sequence[Job]
) -> Iterator[dict[str, object]]:
    reading = read(model, task.tokens, N_ANSWER, words.is_end)
    subject = Subject(reading, profile)
    tokens = np.array([*task.then, *task.wanted]) if task.then else reading.answer
    (full,) = reading.log_probabilities([{}], tokens)
    spans = wanted_in(task, reading, words)
    spans = [span for span in spans if is_most_probable(full, tokens, span)]
    if not spans and task.name != "news":
        return
    # what all of them use
    _ = subject.fused, subject.raw, subject.window
    for start in range(0, len(jobs), N_BATCH):
        part = jobs[start : start + N_BATCH]
        caches, seconds = zip(*(timed(subject, *job) for job in part), strict=True)
        for (name, n_keep), took, rows in zip(part, seconds, reading.log_probabilities(caches, tokens), strict=True):
            found = [is_most_probable(rows, tokens, span) for span in spans]
            kl = (np.exp(full) * (full - rows)).sum(axis=-1).mean()
            row = {"task": task.name, "row": task.row, "system": name, "cells": n_keep, "kl": float(kl)}
            yield row | {"found": sum(found), "of": len(found), "seconds": took}


def timed(subject: Subject, name: str, n_keep: int) -> tuple[Cache, float]:
    start = time.perf_counter()
    return SYSTEMS[name](subject, n_keep), time.perf_counter() - start


def wanted_in(task: Task, reading: Reading, words: Model) -> list[range]:
    """Return the tokens of each thing that is wanted, of those that follow the prompt."""
    if task.then:
        return [range(len(task.then), len(task.then) + len(task.wanted))]
    ends = np.cumsum([len(words.detokenize([token])) for token in reading.answer.tolist()])
    answer, spans = words.detokenize(reading.answer.tolist()), []
    for output in task.outputs:
        start = answer.lower().find(output.lower().encode())
        if start >= 0:
            first, last = np.searchsorted(ends, [start + 1, start + len(output)])
            spans.append(range(first, last + 1))
    return spans


def is_most_probable(rows: np.ndarray, tokens: np.ndarray, span: range) -> bool:
    """Return whether all tokens of a span are the most probable ones. What the prompt itself gives is known to all."""
    return all(rows[i - 1].argmax() == tokens[i] for i in span if i)


def table(rows: list[dict], budgets: list[int], names: Sequence[str], task: str) -> Iterator[str]:
    yield f"\n| {task} | " + " | ".join(f"{n} cells" for n in budgets) + " | seconds |"
    yield "|" + "---|" * (len(budgets) + 2)
    for name in names:
        cells = [cell_of(rows, task, name, n) for n in budgets]
        seconds = np.median([row["seconds"] for row in rows if (row["task"], row["system"]) == (task, name)])
        yield f"| {name} | {' | '.join(cells)} | {seconds:.2f} |"


def cell_of(rows: list[dict], task: str, name: str, n_keep: int) -> str:
    own, base = (
        {row["row"]: row for row in rows if (row["task"], row["system"], row["cells"]) == (task, system, n_keep)}
        for system in (name, BASE)
    )
    if task == "news":
        return divergence([own[row]["kl"] for row in own], [base[row]["kl"] for row in own])
    return f"{sum(row['found'] for row in own.values())} of {sum(row['of'] for row in own.values())}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", choices=list(PROMPTS), default=list(PROMPTS), help="default: all")
    parser.add_argument("--news", type=Path, help="rows of LongBench, JSONL")
    parser.add_argument("--haystack", type=Path, help="folder with *.txt")
    parser.add_argument("--needles", type=Path, help="facts, JSONL")
    parser.add_argument("--rows", type=int, default=8, help="prompts, facts, or prompts of each kind (default: 8)")
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--systems", nargs="+", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, help="results, JSONL; a rerun resumes from it")
    args = parser.parse_args()

    path = find_model(args.model)
    model, profile = Transformer(path), find_profile(path)
    if profile is None:
        parser.error("calibrate the model first: dapq-edge heads calibrate")
    names = list(dict.fromkeys([BASE, *(args.systems or SYSTEMS)]))
    rows = [row for _, row in read_jsonl(args.json, dict, "a result")] if args.json.exists() else []
    done = {(row["task"], row["row"], row["system"], row["cells"]) for row in rows}
    with captured_log():
        engine = open_model(path)
        for task in tasks_of(args, engine):
            every = [(name, n) for name in names for n in args.budgets]
            jobs = [job for job in every if (task.name, task.row, *job) not in done]
            for row in measure(model, profile, engine.model, task, jobs) if jobs else ():
                rows.append(row)
                with args.json.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"\r{task.name} {task.row}", end="", flush=True)
    for task in args.tasks:
        print("\n".join(table(rows, args.budgets, names, task)))


if __name__ == "__main__":
    main()
