"""Time of a probe against a plain decode of the same 32 tokens, alternating in one run: medians and their ratio.

.venv/bin/python scripts/bench/probe.py
"""

import argparse
import statistics
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from dapq_edge import Full, ProbeType, find_model, open_model
from dapq_edge.llamacpp.context import FLASH_ATTN
from dapq_edge.llamacpp.log import captured_log

N_PROBE = 32


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-fa", "--flash-attn", choices=FLASH_ATTN, default="on")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    engine = open_model(find_model(args.model), n_threads=args.threads, flash_attn=args.flash_attn)
    engine.configure(Full(), None, n_ctx=max(args.lengths) + N_PROBE)
    rng = np.random.default_rng(0)
    probe = rng.integers(100, engine.model.n_vocab, N_PROBE).tolist()
    table = Table(title=f"probe and decode of {N_PROBE} tokens, flash attention {args.flash_attn}, medians")
    for heading in ("cells", "prefill s", "probe s", "decode s", "probe / decode", "probe / prefill"):
        table.add_column(heading, justify="right")
    prefill = 0.0
    cache = engine.cache
    for length in sorted(args.lengths):
        tokens = rng.integers(100, engine.model.n_vocab, length - cache.n_cells).tolist()
        prefill += seconds(lambda tokens=tokens: cache.read(tokens))
        probes, decodes = [], []
        for _ in range(args.rounds):
            probes.append(seconds(lambda length=length: cache.probe(probe, length, ProbeType.MAX)))
            decodes.append(seconds(lambda: (cache.read(probe), cache.logits)))
            cache.truncate(length)
        p, d = statistics.median(probes), statistics.median(decodes)
        table.add_row(str(length), f"{prefill:.1f}", f"{p:.3f}", f"{d:.3f}", f"{p / d:.2f}", f"{p / prefill:.1%}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    with captured_log():
        sys.exit(main())
