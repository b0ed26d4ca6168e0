"""Related systems on news, also those that the patch cannot run: KL divergence to the full cache, as a Markdown table.

.venv/bin/python scripts/bench/related.py --news FILE --json related.jsonl

The model is evaluated in numpy (`simulation/`), so that each KV head may keep its own number of cells, and cells may be
changed. All systems keep as many cells, or bytes, as fused, and score with it, if nothing else is said. "late" is the
KL of the tokens that fused's look-ahead has not seen.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from simulation import changes, numbers
from simulation.reading import read
from simulation.subject import N_AHEAD, N_FILLER, Scores, Subject, top
from simulation.transformer import Cache, Transformer

from dapq_edge import find_model, open_model
from dapq_edge.evaluation.fidelity import fidelity_cases
from dapq_edge.eviction.heads import HeadProfile, find_profile
from dapq_edge.eviction.score import group_heads
from dapq_edge.files import read_jsonl
from dapq_edge.llamacpp.log import captured_log

LENGTH, N_ANSWER = 2048, 48

# caches whose divergence is computed at once
N_BATCH = 6

System = Callable[[Subject, int], Cache]


def look_ahead(n_ahead: int, n_filler: int) -> System:
    def system(subject: Subject, n_keep: int) -> Cache:
        seen = subject.probe(n_ahead, n_filler)
        return subject.cache(top(subject.scores([np.concatenate(layer.attention) for layer in seen]), n_keep))

    return system


def with_numbers(numbers_of: Callable[[Subject, int], list]) -> System:
    return lambda subject, n_keep: subject.cache(top(subject.fused, numbers_of(subject, n_keep)))


def merging(**options: bool) -> System:
    return lambda subject, n_keep: changes.merged(subject, top(subject.fused, n_keep), **options)


def quantized(type_k: str, type_v: str) -> System:
    return lambda subject, n_keep: changes.quantized(subject, n_keep, type_k, type_v)


def votes(subject: Subject) -> Scores:
    """CORM (arXiv 2404.15949, section 4): how many queries look at a cell more than at the average one."""
    return [
        group_heads((layer > 1 / subject.n).mean(axis=1) + 1e-3 * layer.mean(axis=1), subject.reading.model.n_head_kv)
        for layer in subject.attention
    ]


def pod(subject: Subject, n_keep: int) -> Cache:
    """PoD (arXiv 2412.02252, section 3): two layers share their choice."""
    pairs = [subject.fused[i : i + 2] for i in range(0, len(subject.fused), 2)]
    shared = [np.mean(pair, axis=0) for pair in pairs for _ in pair]
    return subject.cache(top(shared, n_keep))


def refitted(numbers_of: Callable[[Subject, int], list]) -> System:
    return lambda subject, n_keep: changes.refitted(subject, top(subject.fused, numbers_of(subject, n_keep)))


SYSTEMS: dict[str, System] = {
    "fused, all layers alike": look_ahead(N_AHEAD, N_FILLER),
    **{f"look-ahead {n} + filler {N_FILLER}": look_ahead(n, N_FILLER) for n in (8, 16, 24, 48)},
    "look-ahead 32, filler 128": look_ahead(N_AHEAD, 128),
    "CAKE's layers": with_numbers(numbers.cake),
    "layers by retrieval": with_numbers(numbers.by_retrieval),
    "layers by sensitivity": with_numbers(numbers.by_sensitivity),
    "RazorAttention's whole heads": with_numbers(numbers.razor),
    "RazorAttention": lambda s, n: changes.compensated(s, top(s.fused, numbers.razor(s, n - 1)), True),
    "FastGen's rule": with_numbers(numbers.fastgen),
    "Ada-KV": with_numbers(numbers.ada),
    "Ada-KV over all layers": with_numbers(numbers.all_heads),
    "CORM's votes": lambda s, n: s.cache(top(votes(s), n)),
    "PoD, two layers": pod,
    "compensation cell": lambda s, n: changes.compensated(s, top(s.fused, n - 1), True),
    "compensation cell without a weight": lambda s, n: changes.compensated(s, top(s.fused, n - 1), False),
    "SubGen, half clusters": lambda s, n: changes.clustered(s, n, 0.5),
    "Elastic Cache": merging(by_key=False, with_k=True, by_attention=False),
    "Elastic Cache, V only, by attention": merging(by_key=False, with_k=False, by_attention=True),
    "EMS": merging(by_key=True, with_k=True, by_attention=False),
    "EMS, V only, by attention": merging(by_key=True, with_k=False, by_attention=True),
    "EMS, V only, and weights of cells": merging(by_key=True, with_k=False, by_attention=True, is_weighted=True),
    "refitted values": refitted(numbers.alike),
    "refitted values, layers by retrieval": refitted(numbers.by_retrieval),
    "refitted values, layers by sensitivity": refitted(numbers.by_sensitivity),
    "ThinK, 60% of K's channels": lambda s, n: changes.with_channels(s, n, 0.6),
    "K q4_0": quantized("q4_0", "f16"),
    "K and V q8_0": quantized("q8_0", "q8_0"),
    "K and V q4_0": quantized("q4_0", "q4_0"),
}

BASE = next(iter(SYSTEMS))


def prompts(args: argparse.Namespace) -> Iterator[np.ndarray]:
    with captured_log():
        engine = open_model(find_model(args.model))
        for case in fidelity_cases(Path(args.news), args.rows, LENGTH, N_ANSWER, engine.model):
            yield np.array(case.prompt(engine).tokens)


def measure(
    model: Transformer, profile: HeadProfile, tokens: np.ndarray, jobs: list[tuple[str, int]]
) -> Iterator[dict]:
    subject = Subject(read(model, tokens, N_ANSWER), profile)
    for start in range(0, len(jobs), N_BATCH):
        part = jobs[start : start + N_BATCH]
        caches = [SYSTEMS[name](subject, n_keep) for name, n_keep in part]
        for (name, n_keep), kl in zip(part, subject.reading.divergences(caches), strict=True):
            yield {"system": name, "cells": n_keep, "kl": float(kl.mean()), "late": float(kl[N_AHEAD:].mean())}


def compared(rows: list[dict], name: str, n_keep: int) -> str:
    """Mean KL, and the mean difference to fused over the same prompts with its interval of 95%."""

    def of(system: str) -> dict[int, float]:
        return {row["row"]: row["kl"] for row in rows if (row["system"], row["cells"]) == (system, n_keep)}

    own, base = of(name), of(BASE)
    difference = np.array([own[row] - base[row] for row in own])
    if name == BASE or len(difference) < 2:
        return f"{np.mean(list(own.values())):.3f}"
    interval = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    return f"{np.mean(list(own.values())):.3f} ({difference.mean():+.3f} ± {interval:.3f})"


def table(rows: list[dict], budgets: list[int], systems: list[str]) -> Iterator[str]:
    yield "| | " + " | ".join(f"{n} cells" for n in budgets) + " | late, " + ", ".join(map(str, budgets)) + " |"
    yield "|" + "---|" * (len(budgets) + 2)
    for name in systems:
        of_name = [[row for row in rows if (row["system"], row["cells"]) == (name, n)] for n in budgets]
        late = ", ".join(f"{np.mean([row['late'] for row in part]):.2f}" for part in of_name)
        yield f"| {name} | " + " | ".join(compared(rows, name, n) for n in budgets) + f" | {late} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--news", required=True, help="rows of LongBench, JSONL")
    parser.add_argument("--rows", type=int, default=10, help="prompts (default: 10)")
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--systems", nargs="+", help="default: all")
    parser.add_argument("--json", required=True, help="results, JSONL; a rerun resumes from it")
    args = parser.parse_args()

    path, results = find_model(args.model), Path(args.json)
    model, profile = Transformer(path), find_profile(path)
    if profile is None:
        parser.error("calibrate the model first: dapq-edge heads calibrate")
    systems = list(dict.fromkeys([BASE, *(args.systems or SYSTEMS)]))
    rows = [row for _, row in read_jsonl(results, dict, "a result")] if results.exists() else []
    done = {(row["row"], row["system"], row["cells"]) for row in rows}
    for number, tokens in enumerate(prompts(args)):
        jobs = [(name, n) for name in systems for n in args.budgets if (number, name, n) not in done]
        for row in measure(model, profile, tokens, jobs) if jobs else ():
            rows.append({"row": number, **row})
            with results.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        print(f"\r{number + 1} of {args.rows}", end="", flush=True)
    print()
    print("\n".join(table(rows, args.budgets, systems)))


if __name__ == "__main__":
    main()
