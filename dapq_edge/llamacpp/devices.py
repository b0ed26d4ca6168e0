"""Backends and devices that ggml knows."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import psutil

from . import compat

# what functions return and take; handles are pointers
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "dev_count": (ctypes.c_size_t, []),
    "dev_get": (ctypes.c_void_p, [ctypes.c_size_t]),
    "dev_type": (ctypes.c_int, [ctypes.c_void_p]),
    "dev_name": (ctypes.c_char_p, [ctypes.c_void_p]),
    "dev_memory": (None, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)]),
    "register": (None, [ctypes.c_void_p]),
    "reg_by_name": (ctypes.c_void_p, [ctypes.c_char_p]),
    "reg_count": (ctypes.c_size_t, []),
    "reg_get": (ctypes.c_void_p, [ctypes.c_size_t]),
    "reg_get_proc_address": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]),
    "reg_name": (ctypes.c_char_p, [ctypes.c_void_p]),
}


class DeviceType(IntEnum):
    """`enum ggml_backend_dev_type`. GPU: with memory of its own, or on another machine."""

    CPU = 0
    GPU = 1
    IGPU = 2
    ACCEL = 3
    META = 4


@dataclass(frozen=True)
class Device:
    """handle: `ggml_backend_dev_t`."""

    handle: int
    name: str
    type: DeviceType

    @property
    def free(self) -> int:
        """Return the bytes of its memory that are free now."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        backend_function("dev_memory")(self.handle, ctypes.byref(free), ctypes.byref(total))
        return free.value


def devices() -> list[Device]:
    """Return all devices, those of RPC servers that were added too."""
    handles = [backend_function("dev_get")(i) for i in range(backend_function("dev_count")())]
    return [
        Device(handle, backend_function("dev_name")(handle).decode(), DeviceType(backend_function("dev_type")(handle)))
        for handle in handles
    ]


def backends() -> list[str]:
    """Return the names of the backends that are built in or were loaded."""
    found = [backend_function("reg_get")(i) for i in range(backend_function("reg_count")())]
    return [backend_function("reg_name")(backend).decode() for backend in found]


def cpu_library() -> str | None:
    """Return the name of the library of the CPU's kernels: of a wheel, the one that suits the processor.

    None where the system does not say which files a process has mapped (macOS).
    """
    maps: list[Any] = getattr(psutil.Process(), "memory_maps", list)()
    return next((Path(file.path).name for file in maps if "ggml-cpu" in file.path), None)


def gpus() -> list[Device]:
    """Return those to which n_gpu_layers moves layers."""
    return [device for device in devices() if device.type in (DeviceType.GPU, DeviceType.IGPU)]


def backend_function(name: str) -> Callable[..., Any]:
    """Return `ggml_backend_<name>` of what llama.cpp has loaded. Raises AttributeError if there is none."""
    function: Callable[..., Any] = getattr(compat.lib, f"ggml_backend_{name}")
    function.restype, function.argtypes = _SIGNATURES[name]  # type: ignore[attr-defined]
    return function
