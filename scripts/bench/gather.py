"""Time of a gather of half of the cells, other ones in each head, with flash attention on and off: medians.

.venv/bin/python scripts/bench/gather.py

Only the first layer is evaluated before: what is moved does not change the time.
"""

import argparse
import statistics
import sys
import time

import numpy as np
from layers import open_context, read

from dapq_edge import find_model
from dapq_edge.llamacpp import native
from dapq_edge.llamacpp.log import captured_log


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    rng, path = np.random.default_rng(0), str(find_model(args.model))
    tokens = rng.integers(100, 1000, args.tokens)
    for args.flash_attn in ("on", "off"):
        ctx, seconds = open_context(path, args), []
        for _ in range(args.rounds):
            read(ctx, tokens, 1)
            keep = [
                np.sort([rng.choice(args.tokens, args.tokens // 2, replace=False) for _ in range(n_head)])
                for n_head in native.gather_heads(ctx).values()
            ]
            start = time.perf_counter()
            native.seq_gather(ctx, 0, 0, keep)
            seconds.append(time.perf_counter() - start)
        print(f"flash attention {args.flash_attn}: {1000 * statistics.median(seconds):.1f} ms")
    return 0


if __name__ == "__main__":
    with captured_log():
        sys.exit(main())
