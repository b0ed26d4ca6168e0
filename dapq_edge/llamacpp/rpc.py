"""Several machines: layers of a model on devices that llama.cpp's RPC backend reaches over the network.

Nothing is encrypted, and nobody is asked for a password: for networks that you trust.
"""

import ctypes
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DapqError, UsageError
from .devices import DeviceType, backend_function, devices, gpus

# seconds to wait for a server to answer
TIMEOUT = 10

# ggml-rpc.cpp: a command, its size and capabilities; the size of the answer, major, minor, patch, padding, capabilities
HELLO = struct.pack("<BQ24x", 14, 24)
HELLO_ANSWER = struct.Struct("<Q4B24x")
PROTOCOL = 7, 0


# of `ggml_backend_rpc_<name>`
_SIGNATURES = {
    "add_server": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p),
    "start_server": ctypes.CFUNCTYPE(
        None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p
    ),
}


def has_rpc() -> bool:
    """Return whether llama.cpp was built with RPC."""
    return _backend() is not None


def _backend() -> int | None:
    """Return the `ggml_backend_reg_t` of RPC, whether it is built in or was loaded."""
    backend: int | None = backend_function("reg_by_name")(b"RPC")
    return backend


def _function(name: str) -> Callable[..., Any]:
    """Return `ggml_backend_rpc_<name>`. Raises `DapqError` if there is none."""
    backend = _backend()
    if backend is None:
        raise DapqError("llama.cpp was built without RPC: build it with -DGGML_RPC=on")
    return _SIGNATURES[name](backend_function("reg_get_proc_address")(backend, f"ggml_backend_rpc_{name}".encode()))


def parse_address(text: str) -> tuple[str, int]:
    """Read "host:port". Raises `UsageError`."""
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UsageError(f"{text!r}: give host:port, or several with commas between them", param="rpc")
    return host, int(port)


def _greet(address: str) -> None:
    """Raise `DapqError` if no RPC server of our version answers: llama.cpp would abort, or wait."""
    try:
        with socket.create_connection(parse_address(address), timeout=TIMEOUT) as connection:
            connection.sendall(HELLO)
            answer = connection.makefile("rb").read(HELLO_ANSWER.size)
    except TimeoutError as error:
        raise DapqError(f"the RPC server {address} does not answer: is it in use?") from error
    except OSError as error:
        raise DapqError(f"cannot reach the RPC server {address}: {error.strerror or error}") from error
    if len(answer) < HELLO_ANSWER.size or HELLO_ANSWER.unpack(answer)[0] != HELLO_ANSWER.size - 8:
        raise DapqError(f"{address} is no RPC server of llama.cpp")
    major, minor = HELLO_ANSWER.unpack(answer)[1:3]
    if major != PROTOCOL[0] or minor > PROTOCOL[1]:
        ours = ".".join(map(str, PROTOCOL))
        raise DapqError(
            f"the RPC server {address} speaks version {major}.{minor} of the protocol, llama.cpp here {ours}"
        )


def add_servers(addresses: Sequence[str]) -> None:
    """Register the devices of servers at "host:port", so that n_gpu_layers puts layers there.

    Raises `UsageError` if an address is wrong, and `DapqError` if no server answers there or llama.cpp has no RPC.
    """
    for address in addresses:
        _greet(address)
    for address in addresses:
        registry = _function("add_server")(address.strip().encode())
        if not registry:
            raise DapqError(f"the RPC server {address} has no devices")
        backend_function("register")(registry)


def serve(host: str, port: int, n_threads: int, names: Sequence[str] = ()) -> None:
    """Serve devices of this machine until the process ends: those of these names, else its GPUs, else its CPU.

    Raises `UsageError` if no device has such a name, and `DapqError` if llama.cpp has no RPC, or stops to serve.
    """
    start, everything = _function("start_server"), devices()
    named = {device.name: device for device in everything}
    if unknown := [name for name in names if name not in named]:
        raise UsageError(f"{unknown[0]}: there is {', '.join(named)}", param="device")
    served = [named[name] for name in names] or gpus() or [d for d in everything if d.type == DeviceType.CPU]
    handles = (ctypes.c_void_p * len(served))(*(device.handle for device in served))
    start(f"{host}:{port}".encode(), None, n_threads, len(served), handles)
    raise DapqError(f"the RPC server on {host}:{port} ended")
