"""A device whose memory the host cannot reach: llama.cpp's RPC backend, served on the CPU by a process of its own."""

import ctypes
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from llama_cpp.llama_cpp import _lib as _llama

LIBRARIES = Path(_llama._name).parent


def _load(name: str) -> ctypes.CDLL | None:
    path = next(LIBRARIES.glob(f"*{name}.*"), None)
    return path and ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def has_rpc() -> bool:
    return next(LIBRARIES.glob("*ggml-rpc.*"), None) is not None


def serve(port: int) -> None:
    base, cpu, rpc = _load("ggml-base"), _load("ggml-cpu"), _load("ggml-rpc")
    cpu.ggml_backend_cpu_reg.restype = base.ggml_backend_reg_dev_get.restype = ctypes.c_void_p
    base.ggml_backend_reg_dev_get.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    device = base.ggml_backend_reg_dev_get(cpu.ggml_backend_cpu_reg(), 0)
    rpc.ggml_backend_rpc_start_server.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_void_p,
    ]
    rpc.ggml_backend_rpc_start_server(f"127.0.0.1:{port}".encode(), None, 1, 1, ctypes.byref(ctypes.c_void_p(device)))


@contextmanager
def rpc_device():
    """Serve a device and register it, so that `n_gpu_layers` puts layers there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, __file__, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        ggml, rpc = _load("ggml"), _load("ggml-rpc")
        rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
        ggml.ggml_backend_register.argtypes = [ctypes.c_void_p]
        ggml.ggml_backend_register(rpc.ggml_backend_rpc_add_server(f"127.0.0.1:{port}".encode()))
        yield
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
