"""KL divergence to the full cache along its own greedy answer, on the news of LongBench, by granularity and budget.

.venv/bin/python scripts/bench_fidelity.py --data multi_news.jsonl
"""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dapq_edge import native
from dapq_edge.budgets import Budget
from dapq_edge.evaluation.fidelity import kl_divergence, log_probabilities, news_prompt, read_contexts
from dapq_edge.evaluation.snapshot import Snapshot
from dapq_edge.llama import Llama
from dapq_edge.models import find_model
from dapq_edge.policies import get_policy
from dapq_edge.select import GRANULARITIES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, required=True, help="rows of LongBench, JSONL")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a prompt")
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--policies", nargs="+", default=["dapq"])
    parser.add_argument("-n", type=int, default=48, help="tokens of the answer")
    parser.add_argument("--rows", type=int, default=20)
    args = parser.parse_args()

    llama = Llama(find_model(args.model), n_threads=2)
    prompts = filter(None, (news_prompt(llama, context, args.length) for context in read_contexts(args.data)))
    todo = list(itertools.product(args.policies, GRANULARITIES, args.budgets))
    kl = {job: [] for job in todo}
    for i, prompt in enumerate(itertools.islice(prompts, args.rows), start=1):
        llama.read(prompt, get_policy("full"), Budget.parse("100%"), n_predict=64)
        snapshot = Snapshot(llama)
        tokens, _ = llama.kv_cache.look_ahead(args.n)
        snapshot.restore()
        full = log_probabilities(llama, tokens)
        for policy, granularity, budget in todo:
            snapshot.restore()
            get_policy(policy, granularity).evict(llama.kv_cache, budget)
            kl[policy, granularity, budget].append(kl_divergence(full, log_probabilities(llama, tokens)))
        print(f"\r{i}/{args.rows}", end="", file=sys.stderr, flush=True)

    table = Table(title=f"KL to the full cache, {i} prompts of {args.length} tokens, {args.n} tokens of its answer")
    for heading in ("policy", "granularity", *map(str, args.budgets)):
        table.add_column(heading)
    for policy, granularity in itertools.product(args.policies, GRANULARITIES):
        means = (np.mean(kl[policy, granularity, budget]) for budget in args.budgets)
        table.add_row(policy, granularity, *(f"{mean:.2f}" for mean in means))
    Console().print(table)
    return 0


if __name__ == "__main__":
    with native.captured_log():
        sys.exit(main())
