"""Needles found after eviction, by policy and budget. Each prompt is read once; every cell of the table starts from it.

.venv/bin/python scripts/bench_needle.py --haystack DIR --needles FILE
"""

import argparse
import itertools
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dapq_edge import native
from dapq_edge.budgets import Budget
from dapq_edge.evaluation.needle import needle_prompt, read_haystack, read_needles
from dapq_edge.evaluation.snapshot import Snapshot
from dapq_edge.llama import Llama
from dapq_edge.models import find_model
from dapq_edge.policies import get_policy
from dapq_edge.select import GRANULARITIES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--haystack", type=Path, required=True, help="folder with *.txt")
    parser.add_argument("--needles", type=Path, required=True, help="JSONL")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a prompt")
    parser.add_argument("--depths", type=float, nargs="+", default=[0.1, 0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--budgets", nargs="+", default=["3%", "6%", "12%", "25%", "50%"])
    parser.add_argument("--policies", nargs="+", default=["streaming", "dapq"])
    parser.add_argument("--granularity", choices=GRANULARITIES, default="head")
    parser.add_argument("-n", type=int, default=12, help="tokens of an answer")
    args = parser.parse_args()

    llama = Llama(find_model(args.model), n_threads=2)
    haystack = read_haystack(sorted(args.haystack.glob("*.txt")))
    full, found = 0, {(policy, budget): 0 for policy in args.policies for budget in args.budgets}
    todo = list(itertools.product(read_needles(args.needles), args.depths))
    for i, (needle, depth) in enumerate(todo, start=1):
        prompt = needle_prompt(llama, needle, haystack, args.length, depth)
        llama.read(prompt, get_policy("full"), Budget.parse("100%"), n_predict=64)
        snapshot = Snapshot(llama)
        full += needle.is_found_in("".join(llama.stream(args.n)))
        for policy, budget in found:
            snapshot.restore()
            get_policy(policy, args.granularity).evict(llama.kv_cache, Budget.parse(budget).cells(len(prompt)))
            found[policy, budget] += needle.is_found_in("".join(llama.stream(args.n)))
        print(f"\r{i}/{len(todo)}, full finds {full}", end="", file=sys.stderr, flush=True)

    table = Table(title=f"needles found, of {len(todo)} prompts of {args.length} tokens; full cache: {full}")
    for heading in ("policy", *args.budgets):
        table.add_column(heading)
    for policy in args.policies:
        table.add_row(policy, *(str(found[policy, budget]) for budget in args.budgets))
    Console().print(table)
    return 0


if __name__ == "__main__":
    with native.captured_log():
        sys.exit(main())
