"""What goes over the wire when the layers are on two other machines, and what it takes, against local.

.venv/bin/python scripts/bench/rpc.py

The servers are processes on loopback, each behind a proxy that counts bytes.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import llama_cpp
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.device import Proxy, rpc_proxies  # noqa: E402

from dapq_edge import Engine, Full, find_model, get_policy, open_model  # noqa: E402
from dapq_edge.llamacpp.log import captured_log  # noqa: E402
from dapq_edge.llamacpp.rpc import add_servers  # noqa: E402
from dapq_edge.planning.ram import MIB  # noqa: E402

TEXT = ROOT / "README.md"


def measure(engine: Engine, tokens: list[int], n_keep: int, proxies: list[Proxy]) -> dict[str, tuple[float, int]]:
    """Return seconds and bytes of each step."""
    cache, policy = engine.cache, get_policy("dapq")
    rows: dict[str, tuple[float, int]] = {}

    def n_bytes() -> int:
        return sum(proxy.n_sent + proxy.n_received for proxy in proxies)

    def step(name: str, work: Callable[[], object]) -> None:
        start, before = time.perf_counter(), n_bytes()
        work()
        # servers still compute when llama.cpp has returned
        llama_cpp.llama_synchronize(cache.ctx)
        rows[name] = time.perf_counter() - start, n_bytes() - before

    step(f"prefill of {len(tokens):,} tokens", lambda: cache.read(tokens))
    step("probe of 32 tokens", lambda: policy.scores(cache, n_keep))
    step(f"probe and eviction to {n_keep} cells", lambda: policy.evict(cache, n_keep))
    step("32 tokens of an answer", lambda: cache.look_ahead(32))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--kv-budget", type=int, default=256)
    args = parser.parse_args()

    def run(n_gpu_layers: int, proxies: list[Proxy]) -> dict[str, tuple[float, int]]:
        engine = open_model(find_model(args.model), n_gpu_layers=n_gpu_layers, n_threads=2, flash_attn="on")
        engine.configure(Full(), None, n_ctx=args.length + 512)
        text = engine.model.tokenize(TEXT.read_text())
        tokens = list(islice(cycle(text), args.length))
        rows = measure(engine, tokens, args.kv_budget, proxies)
        engine.close()
        return rows

    with captured_log():
        # a device that is registered stays registered
        local = run(0, [])
        with rpc_proxies(2) as proxies:
            add_servers([proxy.address for proxy in proxies])
            remote = run(-1, proxies)
    table = Table(title=f"{args.model}, two RPC servers of one thread each on loopback, against two local threads")
    for heading in ("", "local, s", "RPC, s", "MiB over the wire"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (seconds, n_bytes) in remote.items():
        table.add_row(name, f"{local[name][0]:.2f}", f"{seconds:.2f}", f"{n_bytes / MIB:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
