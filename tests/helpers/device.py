"""Devices whose memory the host cannot reach: a GPU, or llama.cpp's RPC backend with a CPU behind it."""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import llama_cpp
import psutil

from dapq_edge.llamacpp.devices import gpus
from dapq_edge.llamacpp.rpc import add_servers

from .processes import until

# set to the library that tests/helpers/count_copies.c makes
COUNTER = "LD_PRELOAD"


@dataclass
class Tested:
    """A device. n_copied: bytes that went to the host so far; n_used: bytes of its memory."""

    n_copied: Callable[[], int]
    n_used: Callable[[], int]


class Proxy:
    """Passes connections on to a server, and counts the bytes that go there and that come back."""

    def __init__(self, port: int) -> None:
        self.n_sent = self.n_received = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._port))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._copy, args=(client, server, "n_sent"), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, "n_received"), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**20):
                setattr(self, counter, getattr(self, counter) + len(data))
                target.sendall(data)
        # after an error too: a client must not wait for a server that died
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def rpc_server() -> Iterator[tuple[str, subprocess.Popen]]:
    """Address and process of a server of one thread on the CPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dapq_edge", "rpc-server", "-p", str(port), "-d", "CPU", "-t", "1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port), server)
        yield f"127.0.0.1:{port}", server
    finally:
        server.kill()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def rpc_proxies(n: int) -> Iterator[list[Proxy]]:
    """Servers behind proxies."""
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(rpc_server())[0] for _ in range(n)]
        yield [Proxy(int(address.rpartition(":")[2])) for address in addresses]


def copies_counter() -> Callable[[], int]:
    """A function for the bytes that the library that is preloaded, if one is, has counted."""
    if COUNTER not in os.environ:
        return lambda: 0
    # it looks for ggml's functions among those that all libraries see
    ctypes.CDLL(llama_cpp.llama_cpp._lib._name, mode=ctypes.RTLD_GLOBAL)
    n_copied = ctypes.c_size_t.in_dll(ctypes.CDLL(os.environ[COUNTER]), "n_copied_to_host")
    return lambda: n_copied.value


@contextlib.contextmanager
def opened_device(name: str) -> Iterator[Tested]:
    """Serve a device and register it ("rpc"), or take what there is ("gpu"); `n_gpu_layers` puts layers there."""
    if name == "gpu":
        assert gpus()
        yield Tested(copies_counter(), lambda: -sum(gpu.free for gpu in gpus()))
        return
    with rpc_server() as (address, server):
        proxy = Proxy(int(address.rpartition(":")[2]))
        add_servers([proxy.address])
        yield Tested(lambda: proxy.n_received, lambda: psutil.Process(server.pid).memory_info().rss)
