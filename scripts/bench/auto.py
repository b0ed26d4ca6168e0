"""Rules by which a prompt chooses its budget: `--kv-budget auto`, DBudgetKV (arXiv 2502.16886), and a fixed one.

.venv/bin/python scripts/bench/auto.py --news FILE

Each news is evicted to a row of budgets. A rule takes the least one that holds a share: ours of the attention of
fused's queries, DBudgetKV's (section 3) of the Frobenius norm of the attention matrices. For each number of cells that
is kept on average, the thresholds that keep as many are found, and the mean KL divergences there are compared.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from resuming import measured

from dapq_edge import Engine, Fused, LayerAttention, ProbeType, find_model, open_model
from dapq_edge.cache.sequence import Keep
from dapq_edge.calibration.divergence import kl_divergence, log_probabilities
from dapq_edge.evaluation.fidelity import FidelityCase, fidelity_cases
from dapq_edge.evaluation.runner import read_all
from dapq_edge.eviction.score import attention_kept
from dapq_edge.llamacpp.log import captured_log

BUDGETS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)

# the rows of a result, beside the divergence
RULES = {"auto": "kept", "DBudgetKV": "norm"}


def norm_kept(layers: list[LayerAttention], keep: Keep) -> float:
    """Return the share of the norm of the attention matrices that the kept cells have, mean over the heads."""
    shares = []
    for seen, cells in zip(layers, keep, strict=True):
        by_head = seen.attention.reshape(seen.n_head_kv, -1, seen.attention.shape[-1])
        for head, kept in zip(by_head, cells, strict=True):
            shares.append(np.linalg.norm(head[:, kept]) / np.linalg.norm(head))
    return float(np.mean(shares))


def measure(engine: Engine, case: FidelityCase) -> dict[str, list[float]]:
    """Return the divergence with each budget, and what the cells of each hold."""
    read_all(engine, case, case.prompt(engine))
    cache, policy = engine.cache, replace(Fused(), heads=engine.heads)
    state, (answer, _) = cache.state(), cache.peek(case.n_predict)
    # fused's queries, each of them
    tokens, pos = policy.queries.tokens(policy, cache, 0)
    layers = cache.probe(tokens, pos, ProbeType.NONE)
    reduced = [replace(layer, attention=layer.attention.max(axis=1)) for layer in layers]
    scores = policy.score(policy, cache, reduced)
    full = log_probabilities(cache, answer)
    found: dict[str, list[float]] = {"kl": [], "kept": [], "norm": []}
    for budget in BUDGETS:
        cache.restore(state)
        keep = policy.select(cache, scores, budget)
        found["kept"].append(attention_kept(scores, keep, policy.candidates))
        found["norm"].append(norm_kept(layers, keep))
        cache.evict(keep)
        found["kl"].append(kl_divergence(full, log_probabilities(cache, answer)))
    return found


def at(rows: list[dict[str, Any]], rule: str, threshold: float) -> tuple[float, float]:
    """Return the mean number of cells that a rule keeps with this threshold, and the mean KL divergence."""
    chosen = [next((i for i, share in enumerate(row[rule]) if share >= threshold), len(BUDGETS) - 1) for row in rows]
    cells = float(np.mean([BUDGETS[i] for i in chosen]))
    return cells, float(np.mean([row["kl"][i] for row, i in zip(rows, chosen, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--news", type=Path, required=True, help="rows of LongBench, JSONL")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="results, JSONL; a rerun resumes from it")
    args = parser.parse_args()
    engine = open_model(find_model(args.model), n_threads=args.threads, flash_attn=True)
    cases = fidelity_cases(args.news, args.rows, 2048, 48, engine.model)
    rows = measured(cases, lambda case: measure(engine, case), args.json)
    print("| cells, mean | fixed | " + " | ".join(RULES) + " |\n|---|---|" + "---|" * len(RULES))
    for i, cells in enumerate(BUDGETS):
        columns = [f"{np.mean([row['kl'][i] for row in rows]):.3f}"]
        for key in RULES.values():
            # a rule chooses otherwise only from one of these on
            thresholds = sorted({share for row in rows for share in row[key]})
            near = min((at(rows, key, t) for t in thresholds), key=lambda found: abs(found[0] - cells))
            columns.append(f"{near[1]:.3f} ({near[0]:.0f} cells)")
        print(f"| {cells} | {' | '.join(columns)} |")


if __name__ == "__main__":
    with captured_log():
        main()
