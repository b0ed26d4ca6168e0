"""Conversations on disk: those that have no room in memory, and those of a process that has ended."""

import hashlib
import json
from collections.abc import Callable
from collections.abc import Sequence as Tokens

from ..cache.sequence import Sequence
from ..cache.state import SequenceState
from ..errors import DapqError
from .catalog import Catalog, Entry

KIND = "conversation"

# hexadecimal digits of a key that say what a conversation depends on; the others are of its text
N_PREFIX = 32


class StateStore:
    """States of the conversations of one model.

    Args:
        catalog: Keeps them.
        identity: Says what they depend on beside their text: the model, the types of the cache, the patch.
        name: Of the model, for people.
    """

    def __init__(self, catalog: Catalog, identity: Callable[[], str], name: str) -> None:
        self.catalog = catalog
        self._identity, self._name = identity, name
        # what they begin with, so that a prompt reads no file
        self._texts: dict[str, Sequence] = {}

    def save(self, state: SequenceState, settings: str) -> bool:
        """Keep a conversation, in place of those that it goes on with; return whether there was room.

        Args:
            state: All of it.
            settings: How it was evicted, and would be.
        """
        prefix, text = self._prefix(settings), state.sequence.text
        key = prefix + hashlib.sha256(text.tobytes()).hexdigest()[N_PREFIX:]
        if not self.catalog.put(key, KIND, state.pack({}), self._name):
            return False
        for entry in self.catalog.entries(prefix):
            before = self._sequence(entry)
            if entry.key != key and before and n_common(before, text.tolist()) == before.n_tokens:
                self.catalog.remove(entry)
        return True

    def find(self, settings: str, spelled: Callable[[Sequence], Tokens[int]]) -> tuple[int, Entry | None]:
        """Return how many tokens a conversation and a prompt begin with, and the one that has most of them.

        Args:
            settings: As for `save`.
            spelled: Gives the prompt's tokens, with a sequence's own ones where both spell the same text.
        """
        best: tuple[int, Entry | None] = 0, None
        entries = self.catalog.entries(self._prefix(settings))
        self._texts = {entry.sha256: self._texts[entry.sha256] for entry in entries if entry.sha256 in self._texts}
        for entry in entries:
            sequence = self._sequence(entry)
            n_same = n_common(sequence, spelled(sequence)) if sequence else 0
            if n_same > best[0]:
                best = n_same, entry
        return best

    def load(self, entry: Entry) -> SequenceState | None:
        """Return a conversation, or None if it is damaged."""
        arrays = self.catalog.get(entry.key)
        if arrays is None:
            return None
        try:
            return SequenceState.unpack(arrays)[0]
        except DapqError as error:
            self.catalog.note(f"a conversation is read again: {error}")
            self.catalog.remove(entry)
            return None

    def _sequence(self, entry: Entry) -> Sequence | None:
        """Return the text of a conversation, and how much of it goes together."""
        if entry.sha256 not in self._texts:
            header, text = (self.catalog.peek(entry, name) for name in ("json", "text"))
            if header is None or text is None:
                return None
            try:
                n_frozen = int(json.loads(bytes(header))["sequence"]["n_frozen"])
            except (KeyError, ValueError, TypeError):
                return None
            self._texts[entry.sha256] = Sequence(text=text, n_frozen=n_frozen)
        return self._texts[entry.sha256]

    def _prefix(self, settings: str) -> str:
        return hashlib.sha256(json.dumps([KIND, self._identity(), settings]).encode()).hexdigest()[:N_PREFIX]


def n_common(sequence: Sequence, tokens: Tokens[int]) -> int:
    """Return how many tokens a sequence and a prompt begin with, 0 if it lacks some of what goes together."""
    n_same = sequence.n_same(tokens)
    return n_same if n_same >= sequence.n_frozen else 0
