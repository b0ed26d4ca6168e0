"""What each part of the fused policy is worth: variants of it on needles, RULER and news, as a Markdown table.

.venv/bin/python scripts/bench/ablation.py --haystack DIR --needles FILE --news FILE --json ablation.jsonl

A needle and a RULER task count as a share of what the full cache finds, news, and answers that need three places of a
text (places), as KL divergence to it, of 2,048 cells.
Beside the KL, the geometric mean of its ratio to that of the first variant on the same news, and the 95% interval.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dapq_edge import (
    Control,
    DapQ,
    Fused,
    KVCache,
    LayerAttention,
    Policy,
    ProbeType,
    find_model,
    get_policy,
    open_model,
)
from dapq_edge.calibration.needles import read_haystack, read_needles
from dapq_edge.evaluation import fidelity, ruler
from dapq_edge.evaluation.data import digest
from dapq_edge.evaluation.estimates import mean
from dapq_edge.evaluation.needle import needle_cases
from dapq_edge.evaluation.results import Results, Row
from dapq_edge.evaluation.runner import Case, evaluate, jobs_of
from dapq_edge.evaluation.summary import of_full
from dapq_edge.eviction.heads import find_profile
from dapq_edge.eviction.policies import ProbingPolicy
from dapq_edge.eviction.policies.parts import (
    AsTheyAre,
    AtAnswer,
    ByError,
    Even,
    Filler,
    Normalized,
    Pyramid,
    RandomTokens,
)
from dapq_edge.eviction.score import Scores, pool
from dapq_edge.eviction.select import top_cells
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.llamacpp.model import Model
from dapq_edge.reading.relevance import retrieval_heads

TASKS = ("needle", "ruler", "fidelity", "places")
LENGTH = 2048


@dataclass(frozen=True)
class LastToken(Filler):
    """The last token of the prompt, again and again."""

    def __call__(self, cache: KVCache, n_tokens: int) -> npt.NDArray[np.int64]:
        return np.full(n_tokens, cache.sequence.recent[-1], dtype=np.int64)


@dataclass(frozen=True)
class EndOfPrompt(Filler):
    """The last tokens of the prompt."""

    def __call__(self, cache: KVCache, n_tokens: int) -> npt.NDArray[np.int64]:
        return cache.sequence.recent[-n_tokens:].astype(np.int64)


@dataclass(frozen=True)
class TimesValueNorms(Normalized):
    """Attention that counts as much as the value that it brings is long."""

    def __call__(self, policy: ProbingPolicy, cache: KVCache, layers: list[LayerAttention]) -> Scores:
        scores = super().__call__(policy, cache, layers)
        return [layer * norms for layer, norms in zip(scores, value_norms(cache), strict=True)]


def value_norms(cache: KVCache) -> list[npt.NDArray[np.float32]]:
    """Return the norms of the values in each layer: [KV heads, cells]."""
    return [np.linalg.norm(cache.values(layer), axis=-1) for layer in cache.gathered_heads()]


@dataclass(frozen=True)
class Retrieved(Fused):
    """Fused, but the retrieval heads choose a quarter of the cells, for all heads: a score knows no budget."""

    @property
    def needs_heads(self) -> bool:
        return True

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        layers = self.probe(cache, *self.queries.tokens(self, cache, n_keep))
        always = self.n_sink + self.n_recent
        seen = pool(retrieval_heads(layers, self.profile).sum(axis=0, keepdims=True), 7)
        (chosen,) = top_cells(seen, always + (n_keep - always) // 4, self.n_sink, self.n_recent)
        scores = self.score(self, cache, layers)
        for layer in scores:
            # more than any normalised score
            layer[:, chosen] += 2
        return scores


# what is varied: as many queries as the paper of DapQ has, and its pooling
N = 16
BASE = Fused(
    name="16 look-ahead tokens + 16 filler, pooled over 5",
    queries=AtAnswer(32, N),
    score=Normalized(pooled=1.0),
    layer_budget=Even(),
    values=AsTheyAre(),
)

# the parts that a variant has instead
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"{n} + {32 - n}": {"queries": AtAnswer(32, n)} for n in (4, 8, 24, 32)},
    "32 + 32": {"queries": AtAnswer(64, 32)},
    "no filler": {"queries": AtAnswer(32, N, filler=None)},
    "filler: the last token of the prompt": {"queries": AtAnswer(32, N, LastToken())},
    "filler: the last tokens of the prompt": {"queries": AtAnswer(32, N, EndOfPrompt())},
    "filler: another seed": {"queries": AtAnswer(32, N, RandomTokens(seed=1))},
    "mean over the queries": {"score": Normalized(ProbeType.MEAN)},
    "heads not normalised": {"score": Normalized(is_normalized=False)},
    "pooled only": {"score": Normalized(own=0)},
    "not pooled": {"score": Normalized(pooled=0)},
    "pooled over 9": {"score": Normalized(width=9)},
    "a quarter of the pooling": {"score": Normalized(pooled=0.25)},
    "largest of the query heads": {"score": Normalized(group="max")},
    "times the norms of the values": {"score": TimesValueNorms()},
    "32 recent cells": {"n_recent": 32},
    "layers: pyramid": {"layer_budget": Pyramid()},
}

# beside fused as it is
COMPARED = ("laq", "snapkv", "oracle")


def variants(has_profile: bool) -> dict[str, Policy]:
    """Return one variant for each part; then fused as it is, and what it is compared with."""
    made: list[Policy] = [BASE, *(replace(BASE, name=name, **parts) for name, parts in VARIANTS.items())]
    if has_profile:
        made += [replace(BASE, name="layers: by error", layer_budget=ByError())]
        made += [
            Retrieved(
                name="a quarter by the retrieval heads",
                queries=BASE.queries,
                score=BASE.score,
                layer_budget=BASE.layer_budget,
                values=BASE.values,
            )
        ]
    as_they_are = replace(Fused(), values=AsTheyAre())
    made += [replace(as_they_are, name="all layers alike, values as they are", layer_budget=Even())]
    made += [replace(as_they_are, name="values as they are"), Fused(), DapQ()]
    made += [replace(Fused(), name=f"fused, {n} + {64 - n}", queries=AtAnswer(64, n)) for n in (32, 64)]
    # pseudo queries that are not where the answer will be written
    made += [DapQ(name=f"dapq, {n:+,} positions", queries=AtAnswer(32, shift=n)) for n in (256, 4096, -256)]
    made += [get_policy(name) for name in COMPARED]
    return {policy.name: policy for policy in made}


def cases_of(args: argparse.Namespace, model: Model) -> Iterator[Case]:
    if "needle" in args.tasks:
        haystack, needles = read_haystack(sorted(Path(args.haystack).glob("*.txt"))), read_needles(Path(args.needles))
        options = {"depths": args.depths, "n_offsets": args.offsets, "seed": args.seed, "n_predict": 12}
        yield from needle_cases(needles, haystack, lengths=[LENGTH], **options)
    if "ruler" in args.tasks:
        yield from ruler.generated_cases(args.ruler, [LENGTH], args.rows, args.seed, 48)
    if "fidelity" in args.tasks:
        yield from fidelity.fidelity_cases(Path(args.news), args.rows, LENGTH, args.tokens, model)
    if "places" in args.tasks:
        yield from place_cases(args)


def place_cases(args: argparse.Namespace) -> Iterator[Case]:
    """Yield texts with three facts, one behind another, all of which are asked for."""
    haystack, needles = read_haystack(sorted(Path(args.haystack).glob("*.txt"))), read_needles(Path(args.needles))
    for row in range(args.rows):
        rng = np.random.default_rng(args.seed + row)
        start, facts = int(rng.integers(0, len(haystack) - 6 * LENGTH)), rng.choice(len(needles), 3, replace=False)
        text = haystack[start : start + 6 * LENGTH]
        for i, fact in sorted(enumerate(facts.tolist()), reverse=True):
            cut = text.find(". ", int((0.3 + i) * LENGTH)) + 1
            text = text[:cut] + needles[fact].needle + text[cut + 1 :]
        question = " ".join(needles[fact].question for fact in facts.tolist())
        key = {"task": "places", "row": row, "length": LENGTH, "n": args.tokens, "data": digest(text, question)}
        yield fidelity.FidelityCase(key, text, question, [], LENGTH, args.tokens)


def row_of(name: str, base: str, rows: list[Row], args: argparse.Namespace) -> str:
    cells = []
    for task in args.tasks:
        of_task = [row for row in rows if row["task"].startswith(task)]
        for budget in args.budgets:
            ours, of_base = (
                [row for row in of_task if row["policy"] == other and row["budget"] == budget] for other in (name, base)
            )
            if task in ("fidelity", "places"):
                cells.append(divergence([row["kl"] for row in ours], [row["kl"] for row in of_base]))
            else:
                share = of_full(of_task, ours)
                cells.append(share.percent if share else "-")
    return f"| {name} | " + " | ".join(cells) + " |"


def divergence(kl: list[float], of_base: list[float]) -> str:
    """Return the mean, and the geometric mean of the ratio to `of_base`."""
    ratio = mean(np.log(kl) - np.log(of_base))
    low, middle, high = np.exp([ratio.low, ratio.mean, ratio.high])
    return f"{np.mean(kl):.3f}, {middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--haystack", help="folder with *.txt")
    parser.add_argument("--needles", help="facts, JSONL")
    parser.add_argument("--news", help="rows of LongBench, JSONL")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="default: all")
    parser.add_argument("--ruler", nargs="+", default=["multivalue", "multiquery"], help="tasks of RULER")
    parser.add_argument("--rows", type=int, default=4, help="prompts of each RULER task and of news (default: 4)")
    parser.add_argument("--depths", nargs="+", type=float, default=[0.1, 0.5], help="of the needles")
    parser.add_argument("--offsets", type=int, default=1, help="places of the haystack (default: 1)")
    parser.add_argument("--tokens", type=int, default=48, help="of the answers to news (default: 48)")
    parser.add_argument("--budgets", nargs="+", default=["64", "256"], help="cells (default: 64 256)")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", help="default: all")
    parser.add_argument("--json", required=True, help="results, JSONL; a rerun resumes from it")
    args = parser.parse_args()

    path = find_model(args.model)
    policies = variants(has_profile=find_profile(path) is not None)
    chosen = {name: policies[name] for name in args.variants or policies}
    results = Results(Path(args.json))
    with captured_log():
        engine = open_model(path, n_threads=args.threads)
        cases, jobs = list(cases_of(args, engine.model)), jobs_of(list(chosen.values()), args.budgets)
        control = Control(lambda done, total: print(f"\r{done} of {total}", end="", flush=True))
        rows = evaluate(engine, cases, jobs, results, control)
    columns = [f"{task} {n}" for task in args.tasks for n in args.budgets]
    print("\n| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name in chosen:
        print(row_of(name, next(iter(chosen)), rows, args))


if __name__ == "__main__":
    main()
