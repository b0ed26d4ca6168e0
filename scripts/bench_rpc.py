"""What goes over the wire when the layers are on two other machines, and what it takes, against local.

.venv/bin/python scripts/bench_rpc.py

The servers are processes on loopback, each behind a proxy that counts bytes.
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dapq_edge import native
from dapq_edge.cache import KVCache
from dapq_edge.models import find_model
from dapq_edge.policies import get_policy
from dapq_edge.reading import ReadingLlama
from dapq_edge.rpc import add_servers

MIB = 2**20
TEXT = Path(__file__).parents[1] / "README.md"


class Proxy:
    """Passes connections on to a server, and counts what they carry."""

    def __init__(self, port: int) -> None:
        self.n_bytes = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._port))
            for pair in ((client, server), (server, client)):
                for end in pair:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(MIB):
                self.n_bytes += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def servers(n: int) -> Iterator[list[Proxy]]:
    """`n` servers of one thread each."""
    ports = [free_port() for _ in range(n)]
    command = [sys.executable, "-m", "dapq_edge", "rpc-server", "-t", "1", "-p"]
    processes = [subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL) for port in ports]
    try:
        for port in ports:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.1)
        yield [Proxy(port) for port in ports]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure(llama: ReadingLlama, tokens: list[int], n_keep: int, proxies: list[Proxy]) -> dict[str, tuple[float, int]]:
    """Seconds and bytes of each step."""
    rows: dict[str, tuple[float, int]] = {}

    def step(name: str, work: Callable[[], object]) -> None:
        start, before = time.perf_counter(), sum(proxy.n_bytes for proxy in proxies)
        work()
        rows[name] = time.perf_counter() - start, sum(proxy.n_bytes for proxy in proxies) - before

    cache, policy = KVCache(llama._ctx.ctx), get_policy("dapq")
    step(f"prefill of {len(tokens):,} tokens", lambda: cache.read(tokens))
    step("probe of 32 tokens", lambda: policy.probe(cache, n_keep))
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
        options = {"n_gpu_layers": n_gpu_layers, "n_threads": 2, "n_threads_batch": 2, "flash_attn": "on"}
        llama = ReadingLlama(find_model(args.model), **options)
        llama.open_context(args.length + 512)
        tokens = (llama.tokenize(TEXT.read_bytes()) * 4)[: args.length]
        rows = measure(llama, tokens, args.kv_budget, proxies)
        llama.close()
        return rows

    with native.captured_log():
        # a device that is registered stays registered
        local = run(0, [])
        with servers(2) as proxies:
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
