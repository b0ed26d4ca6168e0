"""`dapq-edge --version`."""

from email import message_from_string
from importlib.metadata import distribution

from .._version import LLAMA_CPP_COMMIT, PATCH_VERSION, __version__
from ..llamacpp import devices, native


def version_text() -> str:
    """Return package, patch, llama.cpp commit, wheel, backends: a line each."""
    loaded = native.patch_version()
    patch = "none: a stock build, run ./scripts/setup.sh" if loaded is None else str(loaded)
    llama_cpp_python = distribution("llama-cpp-python")
    return (
        f"dapq-edge {__version__}\n"
        f"patch {patch}{'' if loaded in (None, PATCH_VERSION) else f', but {PATCH_VERSION} is needed'}\n"
        f"llama.cpp {LLAMA_CPP_COMMIT} (llama-cpp-python {llama_cpp_python.version})\n"
        f"wheel {_wheel(llama_cpp_python.read_text('WHEEL') or '')}\n"
        f"backends {', '.join(_backend(name) for name in devices.backends())}"
    )


def _wheel(metadata: str) -> str:
    """Return which wheel was installed; only those for other machines have a build of their own (scripts/wheel.sh)."""
    header = message_from_string(metadata)
    build = header["Build"]
    return f"{header['Tag']}, {f'build {build}' if build else 'built on this machine'}"


def _backend(name: str) -> str:
    """Return a backend's name, that of the CPU with the library of kernels."""
    library = devices.cpu_library() if name == "CPU" else None
    return f"{name} ({library})" if library else name
