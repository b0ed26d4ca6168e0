"""Hashes that tell prompts and texts apart."""

import hashlib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def unique(values: Iterable[T]) -> list[T]:
    """Return each value once, in the order of the first ones."""
    return list(dict.fromkeys(values))


def digest(*texts: str) -> str:
    """Return a hash that tells texts apart, so that results of other data are not taken for those of these."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "replace")).hexdigest()[:12]
