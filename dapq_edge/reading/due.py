"""An eviction that is put off until the answer has its first tokens, which are its queries."""

from collections.abc import Callable, Sequence

import numpy as np

from ..cache.kv_cache import KVCache
from ..eviction.policies import Policy
from ..llamacpp import context


class DueEviction:
    """An eviction before an answer whose first tokens are written on all cells.

    Args:
        cache: All that stands before `ending` was just read; `ending` is read next, and then the answer.
        ending: Tokens before the answer.
        n_answer: Cells that the eviction leaves free behind `ending`.
        n_foreseen: First tokens of the answer that it knows.
        evict: Evicts.

    Attributes:
        tokens: Of the answer, so far.
    """

    def __init__(
        self,
        cache: KVCache,
        ending: Sequence[int],
        n_answer: int,
        n_foreseen: int,
        evict: Callable[[], None],
    ) -> None:
        self.tokens: list[int] = []
        self._cache = cache
        self._ending, self._n_answer = list(ending), n_answer
        self._evict = evict
        self._place = cache.here()
        self._rows = np.empty((n_foreseen, cache.n_vocab), dtype=np.float32)

    @property
    def is_complete(self) -> bool:
        """True if the answer has all the tokens that the eviction knows, or has ended."""
        n_tokens = len(self.tokens)
        return n_tokens == len(self._rows) or (n_tokens > 0 and context.is_end(self._cache.ctx, self.tokens[-1]))

    def write(self, token: int) -> None:
        """Go on with a token of the answer; with the last one, it need not be read. Raises as `KVCache.read` does."""
        self._note_logits()
        if len(self.tokens) + 1 < len(self._rows):
            self._cache.read([token])
        self.tokens.append(token)

    def _note_logits(self) -> None:
        """Remember the logits of the last token; after one that could not be read, they are known already."""
        row = self._rows[len(self.tokens)]
        if self._cache.has_logits:
            row[:] = self._cache.logits
        else:
            self._cache.put_logits(row)

    def evict(self) -> None:
        """Evict what stands before the ending, and read the ending and the answer again behind the cells that stay.

        What the answer lacks is looked ahead to. Raises as `Policy.evict` and `KVCache.read` do.
        """
        cache, tokens = self._cache, [*self.tokens, *self._look_ahead()]
        cache.go_back(self._place)
        begins = cache.ahead(self._ending, tokens, self._rows)
        with cache.before(self._ending, self._n_answer, begins):
            self._evict()
        cache.read([*self._ending, *self.tokens])

    def _look_ahead(self) -> list[int]:
        """Return the tokens that the answer lacks."""
        if self.is_complete:
            return []
        self._note_logits()
        rows = self._rows[len(self.tokens) :]
        return self._cache.look_ahead(len(rows), rows)[0]


def can_be_due(cache: KVCache, policy: Policy, n_keep: int) -> bool:
    """Return whether a policy that evicts to `n_keep` cells can do that when the answer has begun."""
    return policy.n_foreseen > 0 and n_keep < cache.n_cells
