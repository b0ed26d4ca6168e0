"""Writing more than the cells hold: KL divergence to the full cache, by what evicts while a text is written.

.venv/bin/python scripts/bench/writing.py --news FILE

Texts of several news about one event are read as if the model had written them (teacher forcing), a few tokens at once,
within --cells cells. Each is compared with the full cache along all tokens behind the first eviction: mean KL, and the
geometric mean of its ratio to that of dapq on the same texts, with the 95% interval.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from ablation import divergence
from resuming import measured
from simulation.transformer import Transformer
from simulation.trigonometric import Centers, observe

from dapq_edge import DapQ, Engine, Fused, KVCache, LayerAttention, Policy, ProbeType, Streaming, find_model, open_model
from dapq_edge.calibration.calibrate import BUILT_IN
from dapq_edge.calibration.needles import read_haystack
from dapq_edge.cells import CHUNK
from dapq_edge.eviction.policies import ScoringPolicy
from dapq_edge.eviction.policies.base import Queries
from dapq_edge.eviction.policies.parts import (
    AsTheyAre,
    BySensitivity,
    LastTokens,
    Normalized,
    Pooled,
    RandomTokens,
)
from dapq_edge.eviction.policies.parts.owner import Owner
from dapq_edge.eviction.score import Scores
from dapq_edge.files import read_jsonl
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.llamacpp.saved import f16_ranges
from dapq_edge.reading.decide import N_ANSWER

# tokens between two evictions, and free cells that the next one needs, as when an answer is written
PART, N_PROBE = N_ANSWER - 64, 64


# its policy is made when the model is known
TRIATTENTION = "TriAttention"


@dataclass(frozen=True)
class WrittenThenFiller(Queries):
    """The last tokens that were written, and filler behind them."""

    n_written: int = 32
    n_filler: int = 32

    def n_tokens(self, policy: Owner) -> int:
        return self.n_written + self.n_filler

    def tokens(self, policy: Owner, cache: KVCache, n_keep: int) -> tuple[npt.NDArray[np.int64], int]:
        written = cache.sequence.recent[-self.n_written :]
        filler = RandomTokens()(cache, self.n_filler)
        return np.concatenate([written, filler]).astype(np.int64), cache.next_position - len(written)


@dataclass(frozen=True)
class Redundant(Pooled):
    """R-KV (arXiv 2505.24133, section 3): attention of the last tokens, less how much a key is like the others."""

    width: int = 7
    importance: float = 0.1

    def __call__(self, policy: Owner, cache: KVCache, layers: list[LayerAttention]) -> Scores:
        both = zip(super().__call__(policy, cache, layers), keys(cache), strict=True)
        return [self._weighed(attention, of_layer) for attention, of_layer in both]

    def _weighed(self, attention: npt.NDArray[np.float32], keys: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
        likeness = unit @ unit.mean(axis=1)[:, :, None]
        redundancy = np.exp(likeness[..., 0] - likeness.max())
        redundancy /= redundancy.sum(axis=1, keepdims=True)
        attention = attention / attention.sum(axis=1, keepdims=True)
        weighed: npt.NDArray[np.float32] = self.importance * attention - (1 - self.importance) * redundancy
        return weighed


@dataclass(frozen=True)
class TriAttention(ScoringPolicy):
    """TriAttention (arXiv 2604.04921), see `simulation.trigonometric`: it looks at keys, and at no attention.

    centers: Of the model.
    """

    sees_attention: ClassVar[bool] = False

    name: str = TRIATTENTION
    centers: Centers | None = field(default=None, repr=False)

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        return [self.centers.scores(i, layer, cache.next_position) for i, layer in enumerate(keys(cache))]


def calibrated(engine: Engine, path: Path) -> TriAttention:
    """Return TriAttention for a model, whose queries were observed on a text of ours."""
    text = read_haystack(sorted(BUILT_IN.glob("*.txt")))
    return TriAttention(centers=observe(Transformer(path), np.array(engine.model.tokenize(text))))


def keys(cache: KVCache) -> list[npt.NDArray[np.float32]]:
    """Return K of each layer, of layers that are alike: float32 [KV heads, cells, head_dim]."""
    cells, heads = cache.state().cells, cache.gathered_heads()
    rows = [cells[part.start : part.stop].view(np.float16) for part in f16_ranges(cells)[: len(heads)]]
    layers = zip(rows, heads.values(), strict=True)
    return [row.reshape(cache.n_cells, n, -1).swapaxes(0, 1).astype(np.float32) for row, n in layers]


LARGEST = Normalized(ProbeType.MAX)

WAYS: dict[str, Policy] = {
    "dapq": DapQ(),
    "dapq, layers by sensitivity": DapQ(layer_budget=BySensitivity()),
    "fused, values as they are": Fused(values=AsTheyAre()),
    "fused": Fused(),
    "the last 8 tokens (SnapKV's score)": DapQ(queries=LastTokens(8), score=Pooled()),
    "the last 32 tokens (SnapKV's score)": DapQ(queries=LastTokens(32), score=Pooled(), n_recent=32),
    "R-KV": DapQ(queries=LastTokens(8), score=Redundant()),
    "the last 32 tokens, their largest attention": DapQ(queries=LastTokens(32), score=LARGEST),
    "32 written and 32 of filler": DapQ(queries=WrittenThenFiller(), score=LARGEST),
    "dapq, 128 recent cells": DapQ(n_recent=128),
    "StreamingLLM": Streaming(),
}


def log_probabilities(
    engine: Engine, tokens: list[int], n_cells: int, make_room: Callable[[KVCache], None]
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield those of the whole vocabulary behind each token, part by part: float32 [tokens of the part, n_vocab]."""
    engine.open(n_cells)
    for start in range(0, len(tokens), PART):
        part = tokens[start : start + PART]
        make_room(engine.cache)
        logits = np.zeros((len(part), engine.cache.n_vocab), dtype=np.float32)
        engine.cache.read(part, logits)
        logits -= logits.max(axis=1, keepdims=True)
        yield logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def measure(engine: Engine, tokens: list[int], n_keep: int, ways: dict[str, Policy]) -> dict[str, float]:
    """Return the mean KL divergence of each way behind the first eviction, in nats per token."""
    # in half of the bytes, as all of a text are many
    full = [
        part.astype(np.float16) for part in log_probabilities(engine, tokens, len(tokens) + PART, lambda cache: None)
    ]
    found = {}
    for name, policy in ways.items():
        policy = policy.with_heads(engine.heads)

        def make_room(cache: KVCache, policy: Policy = policy) -> None:
            with cache.before([], PART + N_PROBE):
                policy.evict(cache, n_keep)

        evicted = log_probabilities(engine, tokens, n_keep + CHUNK, make_room)
        divergences = [_divergence(*both) for both in zip(full, evicted, strict=True)]
        found[name] = float(np.concatenate(divergences)[-(-n_keep // PART) * PART :].mean())
    return found


def _divergence(full: npt.NDArray[np.float16], evicted: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    wide = full.astype(np.float32)
    nats: npt.NDArray[np.float32] = (np.exp(wide) * (wide - evicted)).sum(axis=1)
    return nats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--news", type=Path, required=True, help="rows of LongBench, JSONL")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--texts", type=int, default=10, help="the first ones that are long enough (default: 10)")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--cells", type=int, default=1024)
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, TRIATTENTION], default=[*WAYS, TRIATTENTION])
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="results, JSONL; a rerun resumes from it")
    args = parser.parse_args()
    path = find_model(args.model)
    engine = open_model(path, n_threads=args.threads, flash_attn=True)
    ways = WAYS | {TRIATTENTION: calibrated(engine, path)} if TRIATTENTION in args.ways else WAYS
    texts = (engine.model.tokenize(text) for _, text in read_jsonl(args.news, lambda row: row["context"], "a row"))
    long_enough = (tokens[: args.tokens] for tokens in texts if len(tokens) >= args.tokens)
    chosen = {name: ways[name] for name in args.ways}
    cases = islice(long_enough, args.texts)
    rows = measured(cases, lambda tokens: measure(engine, tokens, args.cells, chosen), args.json)
    base = [row[args.ways[0]] for row in rows]
    print(f"| of {len(rows)} texts | KL, times |\n|---|---|")
    for name in args.ways:
        print(f"| {name} | {divergence([row[name] for row in rows], base)} |")


if __name__ == "__main__":
    with captured_log():
        main()
