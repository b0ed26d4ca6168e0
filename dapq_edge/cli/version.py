"""`dapq-edge --version`."""

from importlib.metadata import version

from .._version import LLAMA_CPP_COMMIT, PATCH_VERSION, __version__
from ..llamacpp import native


def version_text() -> str:
    """Return package, patch, llama.cpp commit, backends: a line each."""
    loaded = native.patch_version()
    patch = "none: a stock build, run ./scripts/setup.sh" if loaded is None else str(loaded)
    return (
        f"dapq-edge {__version__}\n"
        f"patch {patch}{'' if loaded in (None, PATCH_VERSION) else f', but {PATCH_VERSION} is needed'}\n"
        f"llama.cpp {LLAMA_CPP_COMMIT} (llama-cpp-python {version('llama-cpp-python')})\n"
        f"backends {', '.join(native.backends())}"
    )
