"""Decoding-aligned KV cache eviction for llama.cpp."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import PATCH_VERSION, __version__
from .control import Control
from .errors import (
    AbortedError,
    DapqError,
    ModelError,
    NoFreeCellsError,
    NotReadError,
    StockBuildError,
    TooLongError,
    UnsupportedModelError,
    UsageError,
)

if TYPE_CHECKING:
    from .cache.kv_cache import KVCache
    from .cache.sequence import Sequence
    from .cache.sequence_cells import LayerAttention
    from .cache.state import SequenceState
    from .eviction.budget import Auto, Budget, Cells, Share
    from .eviction.heads import HeadProfile
    from .eviction.policies import (
        H2O,
        LAQ,
        TOVA,
        BaseQuestion,
        CompressKV,
        DapQ,
        Full,
        Fused,
        KVzip,
        LAQPlusPlus,
        Oracle,
        Policy,
        PyramidKV,
        SnapKV,
        Streaming,
        get_policy,
    )
    from .llama import Llama
    from .llamacpp.native import ProbeType
    from .planning.weights import find_model
    from .prompt import Prompt
    from .prompt.chat_template import chat_prompt
    from .reading.engine import Engine
    from .reading.open_model import open_model
    from .reading.plan import ReadMode

# llama.cpp is loaded when it is needed
_LAZY = {
    ".cache.kv_cache": ("KVCache",),
    ".cache.sequence": ("Sequence",),
    ".cache.sequence_cells": ("LayerAttention",),
    ".cache.state": ("SequenceState",),
    ".eviction.budget": ("Auto", "Budget", "Cells", "Share"),
    ".eviction.heads": ("HeadProfile",),
    ".eviction.policies": (
        *("BaseQuestion", "CompressKV", "DapQ", "Full", "Fused", "H2O", "KVzip", "LAQ", "LAQPlusPlus", "Oracle"),
        *("Policy", "PyramidKV", "SnapKV", "Streaming", "TOVA", "get_policy"),
    ),
    ".llama": ("Llama",),
    ".llamacpp.native": ("ProbeType",),
    ".planning.weights": ("find_model",),
    ".prompt": ("Prompt",),
    ".prompt.chat_template": ("chat_prompt",),
    ".reading.engine": ("Engine",),
    ".reading.open_model": ("open_model",),
    ".reading.plan": ("ReadMode",),
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "H2O",
    "LAQ",
    "PATCH_VERSION",
    "TOVA",
    "AbortedError",
    "Auto",
    "BaseQuestion",
    "Budget",
    "Cells",
    "CompressKV",
    "Control",
    "DapQ",
    "DapqError",
    "Engine",
    "Full",
    "Fused",
    "HeadProfile",
    "KVCache",
    "KVzip",
    "LAQPlusPlus",
    "LayerAttention",
    "Llama",
    "ModelError",
    "NoFreeCellsError",
    "NotReadError",
    "Oracle",
    "Policy",
    "ProbeType",
    "Prompt",
    "PyramidKV",
    "ReadMode",
    "Sequence",
    "SequenceState",
    "Share",
    "SnapKV",
    "StockBuildError",
    "Streaming",
    "TooLongError",
    "UnsupportedModelError",
    "UsageError",
    "__version__",
    "chat_prompt",
    "find_model",
    "get_policy",
    "open_model",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
