"""A process that reads, probes and writes once for each line on stdin, and prints the seconds as JSON: for wheel.py.

python scripts/bench/rounds.py MODEL THREADS
"""

import json
import sys
import time

import numpy as np

from dapq_edge import Full, ProbeType, find_model, open_model
from dapq_edge.llamacpp.devices import cpu_library
from dapq_edge.llamacpp.log import captured_log

N_PREFILL, N_PROBE, N_DECODE = 512, 32, 32


def main(name: str, threads: str) -> None:
    engine = open_model(find_model(name), n_threads=int(threads), flash_attn="on")
    engine.configure(Full(), None, n_ctx=N_PREFILL + N_PROBE + N_DECODE)
    cache = engine.cache
    tokens = np.random.default_rng(0).integers(100, engine.model.n_vocab, N_PREFILL).tolist()

    def prefill() -> None:
        cache.clear()
        cache.read(tokens)
        _ = cache.logits

    def probe() -> None:
        cache.probe(tokens[:N_PROBE], N_PREFILL, ProbeType.MAX)

    def decode() -> None:
        for token in tokens[:N_DECODE]:
            cache.read([token])
            _ = cache.logits

    print(cpu_library(), flush=True)
    for _ in sys.stdin:
        seconds = {}
        for part in (prefill, probe, decode):
            start = time.perf_counter()
            part()
            seconds[part.__name__] = time.perf_counter() - start
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    with captured_log():
        main(*sys.argv[1:])
