"""Answers that windows of documents gave, so that the same question is not answered again."""

from collections.abc import Callable
from collections.abc import Sequence as Tokens

import numpy as np

from .catalog import Catalog
from .keys import key_of

KIND = "answer"


class AnswerStore:
    """Texts that one model wrote, greedily.

    Args:
        catalog: Keeps them.
        identity: Says what they depend on beside their prompt: the model, the types of the cache, the patch.
        name: Of the model, for people.
    """

    def __init__(self, catalog: Catalog, identity: Callable[[], str], name: str) -> None:
        self._catalog, self._identity, self._name = catalog, identity, name

    def load(self, prompt: Tokens[int], n_most: int) -> tuple[str, bool] | None:
        """Return the answer to a prompt, and whether its bound cut it; None if it is not stored.

        Args:
            prompt: All of it.
            n_most: Tokens of the answer, at most.
        """
        arrays = self._catalog.get(self._key(prompt, n_most))
        if arrays is None or not {"text", "is_cut"} <= arrays.keys():
            return None
        return bytes(arrays["text"]).decode("utf-8", "replace"), bool(arrays["is_cut"].any())

    def save(self, prompt: Tokens[int], n_most: int, answer: str, is_cut: bool) -> None:
        """Keep an answer, see `load`."""
        text = np.frombuffer(answer.encode("utf-8", "replace"), dtype=np.uint8)
        arrays = {"text": text, "is_cut": np.array([is_cut])}
        self._catalog.put(self._key(prompt, n_most), KIND, arrays, self._name)

    def _key(self, prompt: Tokens[int], n_most: int) -> str:
        return key_of(prompt, self._identity(), KIND, n_most)
