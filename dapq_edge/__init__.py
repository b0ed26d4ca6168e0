"""Decoding-aligned KV cache eviction for llama.cpp."""

from ._version import PATCH_VERSION, __version__
from .errors import DapqError

__all__ = ["PATCH_VERSION", "DapqError", "__version__"]
