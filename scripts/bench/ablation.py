"""What each part of the fused policy is worth: variants of it on needles, RULER and news, as a Markdown table.

.venv/bin/python scripts/bench/ablation.py --haystack DIR --needles FILE --news FILE --json ablation.jsonl

A needle and a RULER task count as a share of what the full cache finds, news as KL divergence to it; at 64 and 256
cells of 2,048.
"""

import argparse
import struct
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
from dapq_edge.evaluation.needle import needle_cases
from dapq_edge.evaluation.results import Results, Row
from dapq_edge.evaluation.runner import Case, evaluate, jobs_of
from dapq_edge.evaluation.summary import of_full
from dapq_edge.eviction.heads import find_profile
from dapq_edge.eviction.policies import ProbingPolicy
from dapq_edge.eviction.policies.parts import AtAnswer, ByError, Filler, Normalized, Pyramid, RandomTokens
from dapq_edge.eviction.score import Scores, pool
from dapq_edge.eviction.select import top_cells
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.llamacpp.model import Model
from dapq_edge.reading.relevance import retrieval_heads

BUDGETS = ("64", "256")
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
    """Return the norms in each layer of an f16 cache with flash attention, before an eviction: [KV heads, cells]."""
    state, heads, n_cells = cache.state().cells, cache.gathered_heads(), cache.n_cells
    # the layers of V are the last ones, each a type (4 bytes), the size of a row (8) and the rows
    sizes = range(2, len(state) // n_cells)
    n_row = next(n for n in sizes if struct.unpack_from("<Q", state, len(state) - n_cells * n - 8) == (n,))
    n_layer = 12 + n_cells * n_row
    norms = []
    for i, n_head_kv in enumerate(heads.values()):
        offset = len(state) - (len(heads) - i) * n_layer + 12
        rows = np.frombuffer(state, np.float16, n_cells * n_row // 2, offset).reshape(n_cells, n_head_kv, -1)
        norms.append(np.linalg.norm(rows.astype(np.float32), axis=-1).T)
    return norms


@dataclass(frozen=True)
class Retrieved(Fused):
    """Fused, but the retrieval heads choose a quarter of the cells, for all heads: a score knows no budget."""

    @property
    def needs_heads(self) -> bool:
        return True

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        layers, always = self.probe(cache, n_keep), self.n_sink + self.n_recent
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
    name="16 look-ahead tokens + 16 filler, pooled over 5", queries=AtAnswer(32, N), score=Normalized(pooled=1.0)
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
        made += [Retrieved(name="a quarter by the retrieval heads", queries=BASE.queries, score=BASE.score)]
    made += [Fused(), DapQ()]
    # pseudo queries that are not where the answer will be written
    made += [DapQ(name=f"dapq, {n:+,} positions", queries=AtAnswer(32, shift=n)) for n in (256, 4096, -256)]
    made += [get_policy(name) for name in COMPARED]
    return {policy.name: policy for policy in made}


def cases_of(args: argparse.Namespace, model: Model) -> Iterator[Case]:
    haystack, needles = read_haystack(sorted(Path(args.haystack).glob("*.txt"))), read_needles(Path(args.needles))
    options = {"depths": [0.1, 0.5], "n_offsets": 1, "seed": args.seed, "n_predict": 12}
    yield from needle_cases(needles, haystack, lengths=[LENGTH], **options)
    yield from ruler.generated_cases(["multivalue", "multiquery"], [LENGTH], args.rows, args.seed, 48)
    yield from fidelity.fidelity_cases(Path(args.news), args.rows, LENGTH, 48, model)


def row_of(name: str, rows: list[Row]) -> str:
    cells = []
    for task in ("needle", "ruler", "fidelity"):
        of_task = [row for row in rows if row["task"].startswith(task)]
        for budget in BUDGETS:
            group = [row for row in of_task if row["policy"] == name and row["budget"] == budget]
            if task == "fidelity":
                cells.append(f"{np.mean([row['kl'] for row in group]):.3f}")
            else:
                share = of_full(of_task, group)
                cells.append(f"{share.mean:.0%}" if share else "-")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--haystack", required=True, help="folder with *.txt")
    parser.add_argument("--needles", required=True, help="facts, JSONL")
    parser.add_argument("--news", required=True, help="rows of LongBench, JSONL")
    parser.add_argument("--rows", type=int, default=4, help="prompts of each RULER task and of news (default: 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", help="default: all")
    parser.add_argument("--json", required=True, help="results, JSONL; a rerun resumes from it")
    args = parser.parse_args()

    path = find_model(args.model)
    policies = variants(has_profile=find_profile(path) is not None)
    chosen = {name: policies[name] for name in args.variants or policies}
    results = Results(Path(args.json))
    with captured_log():
        engine = open_model(path)
        cases, jobs = list(cases_of(args, engine.model)), jobs_of(list(chosen.values()), BUDGETS)
        control = Control(lambda done, total: print(f"\r{done} of {total}", end="", flush=True))
        rows = evaluate(engine, cases, jobs, results, control)
    print("\n| | " + " | ".join(f"{task} {n}" for task in ("needle", "RULER", "KL") for n in BUDGETS) + " |")
    print("|" + "---|" * 7)
    for name in chosen:
        print(row_of(name, rows))


if __name__ == "__main__":
    main()
