"""Beginning of an answer: tokens that an eviction looked ahead to, which are read only when others follow."""

from collections.abc import Callable
from collections.abc import Sequence as Tokens

from ..cache.kv_cache import KVCache
from ..cache.look_ahead import LookAhead
from ..cache.sequence import Sequence
from .due import DueEviction


class Beginning:
    """The beginning of an answer, behind what was read into a cache.

    Args:
        cache: Holds the sequence.

    Attributes:
        unread: Tokens of the answer that need not be read yet.
        n_foreseen: First tokens of it whose logits were foreseen.
    """

    def __init__(self, cache: KVCache) -> None:
        self.unread: list[int] = []
        self.n_foreseen = 0
        self._cache = cache
        # whether the answer goes on as it was foreseen, so far
        self._is_as_foreseen = False
        self._due: DueEviction | None = None
        self._written: Sequence | None = None

    @property
    def is_due(self) -> bool:
        """True if an eviction waits for the first tokens of the answer."""
        return self._due is not None

    @property
    def n_tokens(self) -> int:
        """Tokens of the sequence, with those that were not read."""
        return self._cache.sequence.n_tokens + len(self.unread)

    @property
    def written(self) -> Sequence:
        """The ledger, with the tokens that were not read; the same one as long as there are no others."""
        if not self.unread:
            return self._cache.sequence
        if self._written is None:
            self._written = self._cache.sequence.append(self.unread)
        return self._written

    @property
    def foreseen(self) -> LookAhead | None:
        """The look-ahead, as long as the answer goes so."""
        return self._cache.foreseen if self._is_as_foreseen else None

    def put_off(self, ending: Tokens[int], n_answer: int, n_foreseen: int, evict: Callable[[], None]) -> None:
        """Have what was read evicted when the answer has begun, see `DueEviction`."""
        self._due = DueEviction(self._cache, ending, n_answer, n_foreseen, evict)

    def forget_due(self) -> None:
        """Say that the eviction that is due need not be done."""
        self._due = None

    def evict(self) -> None:
        """Do the eviction that is due, if there is one. Whatever is raised, the sequence is empty then."""
        due, self._due = self._due, None
        # after a failure of llama.cpp, all of it may be gone
        if due is None or not self._cache.sequence.n_tokens:
            return
        try:
            due.evict()
        except BaseException:
            self._cache.clear()
            raise
        self._is_as_foreseen = True
        self.put_logits()

    def start(self, *, can_be_foreseen: bool) -> None:
        """Begin as the last eviction foresaw it, if that is wanted and none is due."""
        self.end()
        if self._due:
            return
        foreseen = self._cache.foreseen
        self._is_as_foreseen = can_be_foreseen and foreseen is not None and foreseen.start == self.n_tokens
        self.put_logits()

    def end(self) -> None:
        """Say that what comes next is no part of the answer."""
        self._is_as_foreseen, self.n_foreseen = False, 0

    def write(self, tokens: Tokens[int]) -> bool:
        """Go on with tokens, and return whether that is done: they need not be read now.

        An eviction that is due is done when the answer has its first tokens, or ends. Raises as `DueEviction` does.
        """
        if self._due and len(tokens) == 1:
            self._due.write(int(tokens[0]))
            if self._due.is_complete:
                self.evict()
            return True
        self.evict()
        if self.foreseen and self.foreseen.goes_on(self.n_tokens, tokens):
            self.unread, self._written = [*self.unread, *tokens], None
            self.put_logits()
            return True
        self._is_as_foreseen = False
        return False

    def take_unread(self) -> list[int]:
        """Return the tokens that were not read, which are read next."""
        tokens, self.unread, self._written = self.unread, [], None
        return tokens

    def put_logits(self) -> None:
        """Put the logits of the last token where a sampler finds them, if they were foreseen."""
        foreseen = self.foreseen
        logits = foreseen.logits_at(self.n_tokens) if foreseen else None
        if foreseen and logits is not None:
            self._cache.put_logits(logits)
            self.n_foreseen = self.n_tokens - foreseen.start + 1
