"""Devices whose memory the host cannot reach: llama.cpp's RPC backend, served on the CPU by processes of their own."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dapq_edge.rpc import add_servers


@contextmanager
def rpc_server() -> Iterator[tuple[str, subprocess.Popen]]:
    """Address and process of a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dapq_edge", "rpc-server", "-p", str(port), "-t", "1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", server
    finally:
        server.kill()
        server.wait()


@contextmanager
def rpc_device() -> Iterator[None]:
    """Serve a device and register it, so that `n_gpu_layers` puts layers there."""
    with rpc_server() as (address, _):
        add_servers([address])
        yield
