"""What tokens written ahead of an eviction are worth, on the full cache (fused) or on an evicted branch (LAQ).

.venv/bin/python scripts/bench/ahead.py --news FILE

For 8, 16 and 32 tokens, with filler behind them up to 64 queries: the KL divergence to the full cache along its own
answer, the geometric mean of its ratio to that of 32 tokens on the full cache on the same news, with the 95% interval,
and the seconds of an eviction (CPU time, median), of 2,048 tokens or of --length.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ablation import divergence
from resuming import measured

from dapq_edge import DapQ, Engine, Fused, KVCache, find_model, open_model
from dapq_edge.calibration.divergence import kl_divergence, log_probabilities
from dapq_edge.evaluation.fidelity import FidelityCase, fidelity_cases
from dapq_edge.evaluation.runner import read_all
from dapq_edge.eviction.policies import ProbingPolicy
from dapq_edge.eviction.policies.parts import AsTheyAre, AtAnswer, BranchLookAhead, RandomTokens
from dapq_edge.eviction.policies.parts.owner import FirstPass, Owner
from dapq_edge.llamacpp.log import captured_log

N_QUERIES = 64


@dataclass(frozen=True)
class Drafted(BranchLookAhead):
    """A guess of `n` tokens from a branch, and filler behind it."""

    def n_tokens(self, policy: Owner) -> int:
        return N_QUERIES

    def tokens(self, policy: Owner, cache: KVCache, n_keep: int) -> tuple[npt.NDArray[np.int64], int]:
        ahead, pos = super().tokens(policy, cache, n_keep)
        return np.concatenate([ahead, RandomTokens()(cache, N_QUERIES - len(ahead))]), pos


@dataclass(frozen=True)
class OnBranch(Fused):
    """Fused, whose answer is guessed on a branch that dapq evicts to the same budget, in all layers alike."""

    def first_pass(self, n_keep: int) -> FirstPass:
        return DapQ()


WAYS: dict[str, ProbingPolicy] = {
    "32 tokens on the full cache": Fused(queries=AtAnswer(N_QUERIES, 32)),
    "16": Fused(queries=AtAnswer(N_QUERIES, 16)),
    "8": Fused(queries=AtAnswer(N_QUERIES, 8)),
    "32 tokens on a branch": OnBranch(queries=Drafted(32)),
    "16 on a branch": OnBranch(queries=Drafted(16)),
    "8 on a branch": OnBranch(queries=Drafted(8)),
    "none (dapq's queries)": Fused(queries=AtAnswer(N_QUERIES)),
}


def measure(engine: Engine, case: FidelityCase, budgets: list[int]) -> dict[str, list[float]]:
    """Return the KL divergence of each way with each budget, and the seconds of the evictions."""
    read_all(engine, case, case.prompt(engine))
    cache = engine.cache
    state, (answer, _) = cache.state(), cache.peek(case.n_predict)
    full, found = log_probabilities(cache, answer), {}
    for name, policy in WAYS.items():
        # what is kept is compared, not what its values make up for
        policy, numbers = replace(policy, heads=engine.heads, values=AsTheyAre()), []
        for budget in budgets:
            cache.restore(state)
            start = time.process_time()
            policy.evict(cache, budget)
            seconds = time.process_time() - start
            numbers += [kl_divergence(full, log_probabilities(cache, answer)), seconds]
        found[name] = numbers
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--news", type=Path, required=True, help="rows of LongBench, JSONL")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--budgets", nargs="+", type=int, default=[64, 256])
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="results, JSONL; a rerun resumes from it")
    args = parser.parse_args()
    engine = open_model(find_model(args.model), n_threads=args.threads, flash_attn=True)
    cases = fidelity_cases(args.news, args.rows, args.length, 48, engine.model)
    rows = measured(cases, lambda case: measure(engine, case, args.budgets), args.json)
    base = next(iter(WAYS))
    print("| | " + " | ".join(f"KL, {n} cells, times" for n in args.budgets) + " | seconds |")
    print("|" + "---|" * (len(args.budgets) + 2))
    for name in WAYS:
        columns = [
            divergence([row[name][i] for row in rows], [row[base][i] for row in rows])
            for i in range(0, 2 * len(args.budgets), 2)
        ]
        seconds = statistics.median(number for row in rows for number in row[name][1::2])
        print(f"| {name} | {' | '.join(columns)} | {seconds:.2f} |")


if __name__ == "__main__":
    with captured_log():
        main()
