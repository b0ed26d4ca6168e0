"""What each part of the fused policy is worth: variants of it on needles, RULER and news, as a Markdown table.

A needle and a RULER task count as a share of what the full cache finds, news as KL divergence to it; at 64 and 256
cells of 2,048.
"""

import argparse
import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import llama_cpp
import numpy as np
import numpy.typing as npt

from dapq_edge.llamacpp.log import captured_log
from dapq_edge.llamacpp import native
from dapq_edge.eviction.budget import by_error, pyramid
from dapq_edge.cache.kv_cache import KVCache, LayerAttention
from dapq_edge.evaluation import fidelity, ruler
from dapq_edge.evaluation.needle import needle_cases
from dapq_edge.calibration.needles import read_haystack, read_needles
from dapq_edge.evaluation.results import Results
from dapq_edge.evaluation.runner import Case, Job, evaluate, jobs_of
from dapq_edge.evaluation.summary import of_full
from dapq_edge.eviction.heads import HeadProfile, find_profile
from dapq_edge.planning.weights import find_model
from dapq_edge.llamacpp.native import ProbeType
from dapq_edge.eviction.policies import Policy, get_policy
from dapq_edge.eviction.policies.base import Queries
from dapq_edge.eviction.policies import DapQ
from dapq_edge.eviction.policies import Fused
from dapq_edge import open_model
from dapq_edge.eviction.score import Scores, group_heads, normalize, pool
from dapq_edge.reading.relevance import retrieval_heads
from dapq_edge.eviction.select import top_cells

BUDGETS = ("64", "256")
LENGTH = 2048


@dataclass(frozen=True)
class Variant(Fused):
    """What is varied: as many queries as the paper of DapQ has, and its pooling.

    name: what its results are kept under.
    """

    n_probe: ClassVar[int] = 32
    pooled: ClassVar[float] = 1.0

    name: str = "16 look-ahead tokens + 16 filler, pooled over 5"
    n_look_ahead: int = 16


class MoreQueries(Variant):
    n_probe: ClassVar[int] = 64


class LessPooled(Variant):
    pooled: ClassVar[float] = 0.25


class OnlyLookAhead(Variant):
    def filler(self, cache: KVCache, n_tokens: int) -> npt.NDArray[np.int64]:
        return np.array([], dtype=np.int64)


class OneToken(Variant):
    def filler(self, cache: KVCache, n_tokens: int) -> npt.NDArray[np.int64]:
        return np.full(n_tokens, cache.recent[-1])


class PromptTokens(Variant):
    def filler(self, cache: KVCache, n_tokens: int) -> npt.NDArray[np.int64]:
        return np.array(cache.recent[-n_tokens:])


class MeanOfQueries(Variant):
    reduce: ClassVar[ProbeType] = ProbeType.MEAN


class Pooled(Variant):
    def layer_scores(self, layer: LayerAttention) -> npt.NDArray[np.float32]:
        attention = pool(layer.attention, self.pooling)
        return group_heads(normalize(attention, slice(self.n_sink, -self.n_recent)), layer.n_head_kv)


class NotNormalised(Variant):
    def layer_scores(self, layer: LayerAttention) -> npt.NDArray[np.float32]:
        return group_heads(layer.attention + pool(layer.attention, self.pooling), layer.n_head_kv)


class Largest(Variant):
    """The largest score of the query heads that share a KV head, instead of their mean."""

    def layer_scores(self, layer: LayerAttention) -> npt.NDArray[np.float32]:
        attention = layer.attention + pool(layer.attention, self.pooling)
        scores = normalize(attention, slice(self.n_sink, -self.n_recent))
        return scores.reshape(layer.n_head_kv, -1, scores.shape[-1]).max(axis=1)


class ValueNorms(Variant):
    """Attention counts as much as the value that it brings is long."""

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        return [layer * norms for layer, norms in zip(super().scores(cache, n_keep), value_norms(cache), strict=True)]


def value_norms(cache: KVCache) -> list[npt.NDArray[np.float32]]:
    """For each layer of an f16 cache with flash attention, before any eviction: float32 [KV heads, cells]."""
    state = (ctypes.c_uint8 * llama_cpp.llama_state_seq_get_size(cache.ctx, cache.seq_id))()
    llama_cpp.llama_state_seq_get_data(cache.ctx, state, len(state), cache.seq_id)
    heads, n_cells = cache.gathered_heads(), cache.n_cells
    # the layers of V are the last ones, each a type (4 bytes), the size of a row (8) and the rows
    (n_row,) = struct.unpack_from("<Q", state, len(state) - cache.n_bytes // 2 // len(heads) - 8)
    n_layer = 12 + n_cells * n_row
    norms = []
    for i, n_head_kv in enumerate(heads.values()):
        offset = len(state) - (len(heads) - i) * n_layer + 12
        rows = np.frombuffer(state, np.float16, n_cells * n_row // 2, offset).reshape(n_cells, n_head_kv, -1)
        norms.append(np.linalg.norm(rows.astype(np.float32), axis=-1).T)
    return norms


class Pyramid(Variant):
    max_share: ClassVar[float] = 2.0

    def layer_budgets(self, n_keep: int, n_cells: int, layers: list[int]) -> list[int]:
        return pyramid(n_keep, len(layers), self.n_sink + self.n_recent, n_cells)


class Retrieved(Variant):
    """The retrieval heads choose a quarter of the cells, for all heads."""

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        layers, always = self.probe(cache, n_keep), self.n_sink + self.n_recent
        seen = pool(retrieval_heads(layers, self.heads).sum(axis=0, keepdims=True), 7)
        (chosen,) = top_cells(seen, always + (n_keep - always) // 4, self.n_sink, self.n_recent)
        scores = [self.layer_scores(layer) for layer in layers]
        for layer in scores:
            # more than any normalised score
            layer[:, chosen] += 2
        return scores


class ByError(Variant):
    max_share: ClassVar[float] = 1.6

    def layer_budgets(self, n_keep: int, n_cells: int, layers: list[int]) -> list[int]:
        errors = [self.heads.errors[layer] for layer in layers]
        return by_error(n_keep, errors, self.n_sink + self.n_recent, n_cells, 0.5, self.max_share)


@dataclass(frozen=True)
class Displaced(DapQ):
    """dapq with its pseudo queries `shift` positions from where the answer will be written."""

    name: str = "dapq"
    shift: int = 0

    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        tokens, pos = super().queries(cache, n_keep)
        return tokens, pos + self.shift


def variants(heads: HeadProfile | None) -> dict[str, Policy]:
    """One part varied at a time; then fused as it is, and what it is compared with."""
    made = [Variant(), *(Variant(name=f"{n} + {32 - n}", n_look_ahead=n) for n in (4, 8, 24, 32))]
    made += [MoreQueries(name="32 + 32", n_look_ahead=32), OnlyLookAhead(name="no filler")]
    made += [OneToken(name="filler: the last token of the prompt")]
    made += [PromptTokens(name="filler: the last tokens of the prompt"), Variant(name="filler: another seed", seed=1)]
    made += [MeanOfQueries(name="mean over the queries"), NotNormalised(name="heads not normalised")]
    made += [
        Pooled(name="pooled only"),
        Variant(name="not pooled", pooling=1),
        Variant(name="pooled over 9", pooling=9),
    ]
    made += [LessPooled(name="a quarter of the pooling"), Largest(name="largest of the query heads")]
    made += [ValueNorms(name="times the norms of the values")]
    made += [Variant(name="32 recent cells", n_recent=32), Pyramid(name="layers: pyramid")]
    if heads:
        made += [ByError(name="layers: by error", heads=heads)]
        made += [Retrieved(name="a quarter by the retrieval heads", heads=heads)]
    made += [get_policy("fused"), Displaced()]
    made += [Displaced(name=f"dapq, {shift:+,} positions", shift=shift) for shift in (256, 4096, -256)]
    made += [get_policy(name) for name in ("laq", "snapkv", "oracle")]
    return {policy.name: policy for policy in made}


def cases_of(args: argparse.Namespace, llama: Engine) -> Iterator[Case]:
    haystack, needles = read_haystack(sorted(Path(args.haystack).glob("*.txt"))), read_needles(Path(args.needles))
    options = {"depths": [0.1, 0.5], "n_offsets": 1, "seed": args.seed, "n_predict": 12}
    yield from needle_cases(needles, haystack, lengths=[LENGTH], **options)
    yield from ruler.generated_cases(["multivalue", "multiquery"], [LENGTH], args.rows, args.seed, 48)
    yield from fidelity.fidelity_cases(Path(args.news), args.rows, LENGTH, 48, llama)


def row_of(name: str, rows: list[dict]) -> str:
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--haystack", required=True, help="folder with *.txt")
    parser.add_argument("--needles", required=True, help="facts, JSONL")
    parser.add_argument("--news", required=True, help="rows of LongBench, JSONL")
    parser.add_argument("--rows", type=int, default=4, help="prompts of each RULER task and of news (default: 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", help="default: all")
    parser.add_argument("--json", required=True, help="results, JSONL; a rerun resumes from it")
    args = parser.parse_args()

    model = find_model(args.model)
    policies = variants(find_profile(model))
    chosen = {name: policies[name] for name in args.variants or policies}
    results = Results(Path(args.json))
    with captured_log():
        llama = open_model(model)
        cases = list(cases_of(args, llama))
        jobs: list[Job] = jobs_of(list(chosen.values()), BUDGETS)
        report = lambda done, total: print(f"\r{done} of {total}", end="", flush=True)  # noqa: E731
        rows = evaluate(llama, cases, jobs, results, progress=report)
    print("\n| | " + " | ".join(f"{task} {n}" for task in ("needle", "RULER", "KL") for n in BUDGETS) + " |")
    print("|" + "---|" * 7)
    for name in chosen:
        print(row_of(name, rows))


if __name__ == "__main__":
    main()
