"""Conversations that were left, in memory: a title request, another tab or another answer does not throw them away."""

from collections.abc import Callable
from collections.abc import Sequence as Tokens

from ..cache.kv_cache import KVCache
from ..cache.sequence import Sequence
from ..cache.state import SequenceState
from ..errors import DapqError

# tokens that are lost without a copy: they are read again in no time
N_LOST = 32


class Conversations:
    """States of the last conversations, the newest last.

    Args:
        n_max: Bytes of all of them, at most.
    """

    def __init__(self, n_max: int) -> None:
        self.n_max = n_max
        self._states: list[SequenceState] = []

    @property
    def n_bytes(self) -> int:
        """Bytes that they take."""
        return sum(state.n_bytes for state in self._states)

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

    def keep(self, cache: KVCache) -> None:
        """Copy a conversation, if there is room; the oldest ones go first."""
        if not cache.sequence.n_tokens or cache.n_bytes > self.n_max:
            return
        state = cache.state()
        text = state.sequence.text.tolist()
        # one that goes no further says nothing new
        states = [old for old in self._states if n_common(old.sequence, text) < old.sequence.n_tokens]
        while states and sum(old.n_bytes for old in states) + state.n_bytes > self.n_max:
            states.pop(0)
        self._states = [*states, state]

    def forget(self) -> None:
        """Forget all of them."""
        self._states = []


def n_common(sequence: Sequence, tokens: Tokens[int]) -> int:
    """Return how many tokens a sequence and a prompt begin with, 0 if it lacks some of what goes together."""
    n_same = sequence.n_same(tokens)
    return n_same if n_same >= sequence.n_frozen else 0
