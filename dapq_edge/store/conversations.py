"""Conversations that were left: a title request, another tab or another answer does not throw them away."""

from collections.abc import Callable
from collections.abc import Sequence as Tokens

from ..cache.kv_cache import KVCache
from ..cache.sequence import Sequence
from ..cache.state import SequenceState
from ..errors import DapqError
from .states import StateStore, n_common

# tokens that are lost without a copy: they are read again in no time
N_LOST = 32


class Conversations:
    """States of the last conversations, the newest last: in memory, then on disk.

    Args:
        n_max: Bytes of all of them in memory, at most.
        shelf: Has those that are on disk, if any may be.

    Attributes:
        settings: How they are evicted: those that were in another way are not gone on with.
    """

    def __init__(self, n_max: int, shelf: StateStore | None = None) -> None:
        self.n_max = n_max
        self.settings = ""
        self._shelf = shelf
        self._states: list[SequenceState] = []

    @property
    def n_bytes(self) -> int:
        """Bytes that they take in memory."""
        return sum(state.n_bytes for state in self._states)

    @property
    def sequences(self) -> list[Sequence]:
        """Their ledgers, of those in memory."""
        return [state.sequence for state in self._states]

    def exchange(self, cache: KVCache, spelled: Callable[[Sequence], Tokens[int]]) -> None:
        """Bring back the conversation that a prompt goes on with, if it has more of it than the one in the cache.

        What would be lost of the latter is kept.

        Args:
            cache: Its sequence may become another one.
            spelled: Gives the prompt's tokens, with a sequence's own ones where both spell the same text.
        """
        here = n_common(cache.sequence, spelled(cache.sequence))
        found = [(n_common(state.sequence, spelled(state.sequence)), state) for state in self._states]
        n_best, best = max(found, key=lambda pair: pair[0], default=(0, None))
        if self._shelf:
            n_on_disk, entry = self._shelf.find(self.settings, spelled)
            if entry and n_on_disk > max(here, n_best) + N_LOST:
                n_best, best = n_on_disk, self._shelf.load(entry)
        if cache.sequence.n_tokens - here > N_LOST:
            self.keep(cache)
        if best is None or n_best <= here:
            return
        # by identity: they hold arrays
        self._states = [state for state in self._states if state is not best]
        try:
            cache.restore(best)
        except DapqError:
            # a context with fewer cells than it had
            cache.clear()

    def keep(self, cache: KVCache) -> bool:
        """Copy a conversation, if there is room, and return whether there is; the oldest ones go to disk."""
        state = _state(cache) if cache.n_bytes <= self.n_max else None
        if state is None:
            return False
        text = state.sequence.text.tolist()
        # one that goes no further says nothing new
        states = [old for old in self._states if n_common(old.sequence, text) < old.sequence.n_tokens]
        while states and sum(old.n_bytes for old in states) + state.n_bytes > self.n_max:
            self._put_away(states.pop(0))
        self._states = [*states, state]
        return True

    def put_away(self, cache: KVCache) -> None:
        """Move all of them to disk, with the one in the cache, where they have room there; forget the others."""
        states, self._states = self._states, []
        for state in [*states, _state(cache) if self._shelf else None]:
            self._put_away(state)

    def _put_away(self, state: SequenceState | None) -> None:
        if self._shelf and state and state.sequence.n_tokens > N_LOST:
            self._shelf.save(state, self.settings)

    def forget(self) -> None:
        """Forget those in memory."""
        self._states = []


def _state(cache: KVCache) -> SequenceState | None:
    """Return a copy of a conversation, None if there is none, or no memory for it."""
    if not cache.sequence.n_tokens:
        return None
    try:
        return cache.state()
    except (DapqError, MemoryError):
        return None
