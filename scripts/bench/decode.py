"""Decoding after a long prompt: the full cache, evicted ones, and a fresh context as large as these.

.venv/bin/python scripts/bench/decode.py

All contexts are open at once and decode some tokens in turn, so that the speed of the machine is the same for all.
"""

import argparse
import statistics
import sys
import time
from itertools import islice

import numpy as np
from greedy import answer
from rich.console import Console
from rich.table import Table

from dapq_edge import Cells, find_model, get_policy, open_model
from dapq_edge.llamacpp.log import captured_log

N_TOKENS = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--length", type=int, default=8192, help="tokens of the prompt")
    parser.add_argument("--budget", type=int, default=512, help="cells that are kept")
    parser.add_argument("--rounds", type=int, default=10, help=f"of {N_TOKENS} tokens each")
    args = parser.parse_args()

    kinds = {
        "full cache": (args.length, "full", True),
        "a fresh context": (args.budget, "full", True),
        "evicted, one-shot": (args.length, "fused", True),
        "evicted, one pass": (args.length, "fused", False),
    }
    answers = {}
    for kind, (length, policy, one_shot) in kinds.items():
        engine = open_model(find_model(args.model), n_threads=args.threads)
        tokens = np.random.default_rng(0).integers(100, engine.model.n_vocab, length).tolist()
        budget, n_predict = Cells(args.budget), (1 + args.rounds) * N_TOKENS
        engine.read(tokens, get_policy(policy), budget, n_predict=n_predict, one_shot=one_shot, allow_overflow=True)
        answers[kind] = answer(engine)

    speeds = {kind: [] for kind in kinds}
    for _ in range(1 + args.rounds):
        for kind, tokens in answers.items():
            start = time.perf_counter()
            for _ in islice(tokens, N_TOKENS):
                pass
            speeds[kind].append(N_TOKENS / (time.perf_counter() - start))

    full, fresh, *_ = (statistics.median(speed[1:]) for speed in speeds.values())
    table = Table(title=f"decoding after {args.length:,} tokens with {args.budget:,} cells, medians of {args.rounds}")
    for heading in ("", "tokens/s", "x full cache", "x fresh context"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind, speed in speeds.items():
        # the first round warms up
        median = statistics.median(speed[1:])
        table.add_row(kind, f"{median:.1f}", f"{median / full:.2f}", f"{median / fresh:.2f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    with captured_log():
        sys.exit(main())
