"""Decoding-aligned KV cache eviction for llama.cpp."""

from typing import TYPE_CHECKING, Any

from ._version import PATCH_VERSION, __version__
from .errors import DapqError

if TYPE_CHECKING:
    from .llama import Llama

__all__ = ["PATCH_VERSION", "DapqError", "Llama", "__version__"]


def __getattr__(name: str) -> Any:
    # llama.cpp is loaded when it is needed
    if name == "Llama":
        from .llama import Llama

        return Llama
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
