"""A copy of a sequence before its answer was evicted, for another answer to the same prompt."""

from collections.abc import Sequence as Tokens

from ..cache.kv_cache import KVCache
from ..cache.state import SequenceState
from ..planning.ram import free_memory

# share of the free memory that a copy may take
MAX_COPY = 0.25


class TurnCopy:
    """The sequence as it was when its answer was evicted for the first time.

    Another answer to the same prompt, or the same one with other white space, then needs no reading.

    Attributes:
        is_answering: Whether what is appended is an answer.
    """

    def __init__(self) -> None:
        self.is_answering = False
        self._state: SequenceState | None = None

    def keep(self, cache: KVCache) -> None:
        """Copy a sequence that is evicted next, if there is memory for it."""
        if self.is_answering and self._state is None and cache.n_bytes <= free_memory() * MAX_COPY:
            self._state = cache.state()

    def put_back(self, cache: KVCache, tokens: Tokens[int]) -> None:
        """Go back to the copy if a prompt differs from the sequence in the answer only; forget it."""
        state, self._state = self._state, None
        is_lost = cache.sequence.n_same(tokens) < cache.sequence.n_frozen
        if is_lost and state and state.sequence.n_same(tokens) >= state.sequence.n_frozen:
            cache.restore(state)

    def forget(self) -> None:
        """Forget the copy."""
        self._state = None
