"""`dapq-edge --version`."""

import re
from importlib.metadata import version

import llama_cpp

from .. import native
from .._version import LLAMA_CPP_COMMIT, PATCH_VERSION, __version__


def version_text() -> str:
    """Package, patch, llama.cpp commit, backends: a line each."""
    loaded = native.patch_version()
    patch = "none: a stock build, run ./scripts/setup.sh" if loaded is None else str(loaded)
    return (
        f"dapq-edge {__version__}\n"
        f"patch {patch}{'' if loaded in (None, PATCH_VERSION) else f', but {PATCH_VERSION} is needed'}\n"
        f"llama.cpp {LLAMA_CPP_COMMIT} (llama-cpp-python {version('llama-cpp-python')})\n"
        f"backends {', '.join(backends())}"
    )


def backends() -> list[str]:
    """Names of the ggml backends that the library has."""
    info = llama_cpp.llama_print_system_info().decode()
    return re.findall(r"(\w+) : ", info)
