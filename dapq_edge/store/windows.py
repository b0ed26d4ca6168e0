"""Windows of documents that were read, so that another question need not read them again.

What stands behind a window changes nothing of its K and V, so that they are the same to the bit when they come back, if
they are kept as f16.
"""

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache
from ..cache.sequence import Sequence
from ..cache.state import SequenceState
from ..errors import DapqError
from .catalog import Catalog
from .keys import key_of
from .quantized import restore, shrink
from .types import F16, Q8_0

KIND = "window"


class WindowStore:
    """K and V of the windows that one model read.

    Args:
        catalog: Keeps them.
        identity: Says what they depend on beside their tokens: the model, the types of the cache, the patch.
        name: Of the model, for people.
        store_type: Of K and V in the files, see `STORE_TYPES`.
    """

    def __init__(self, catalog: Catalog, identity: Callable[[], str], name: str, store_type: str) -> None:
        self.catalog = catalog
        self._identity, self._name, self._type = identity, name, store_type

    @property
    def exact(self) -> "WindowStore":
        """The same with K and V as they are, for what answers are written from."""
        return WindowStore(self.catalog, self._identity, self._name, F16)

    def has(self, purpose: str, tokens: Tokens[int]) -> bool:
        """Return whether a window is stored, see `load`."""
        return self.catalog.has(self._key(purpose, tokens))

    def load(self, cache: KVCache, purpose: str, tokens: Tokens[int]) -> npt.NDArray[np.float32] | None:
        """Bring a window into a cache, and return its baseline; None if it is not stored.

        Args:
            cache: Loses what it has, if the window is stored.
            purpose: What it was read for, see `Evidence.key`.
            tokens: All of the window.
        """
        arrays = self.catalog.get(self._key(purpose, tokens))
        if arrays is None:
            return None
        try:
            cache.restore(SequenceState(Sequence().append(tokens), None, restore(arrays)))
        except (DapqError, KeyError) as error:
            self.catalog.note(f"a stored window is read again: {error}")
            return None
        return arrays.get("baseline", np.empty((0, 0), dtype=np.float32))

    def save(self, cache: KVCache, purpose: str, baseline: npt.NDArray[np.float32]) -> bool:
        """Keep the window that is in the cache, and return whether there was room for it."""
        tokens = cache.sequence.text.tolist()
        try:
            cells = cache.state().cells
            arrays: dict[str, npt.NDArray[Any]] = shrink(cells) if self._type == Q8_0 else {"cells": cells}
        except (DapqError, MemoryError) as error:
            self.catalog.note(f"a window is not kept: {str(error) or type(error).__name__}")
            return False
        if baseline.size:
            arrays["baseline"] = baseline
        return self.catalog.put(self._key(purpose, tokens), KIND, arrays, self._name)

    def _key(self, purpose: str, tokens: Tokens[int]) -> str:
        return key_of(tokens, self._identity(), purpose, self._type)
