"""Queries: the tokens that a policy probes with, and where they stand."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ....cache.kv_cache import KVCache
from .owner import Owner

Tokens = npt.NDArray[np.int64]


class Queries(ABC):
    """Tokens to probe with. `policy` is the one that they are a part of."""

    @abstractmethod
    def tokens(self, policy: Owner, cache: KVCache, n_keep: int) -> tuple[Tokens, int]:
        """Return the tokens, integers [queries], and the position of the first one. The cache is left as it was."""

    @abstractmethod
    def n_tokens(self, policy: Owner) -> int:
        """Return how many there are at most."""

    @property
    def n_foreseen(self) -> int:
        """First tokens of the answer, as all cells write it, that are queries, at most."""
        return 0

    def n_branch(self, n_keep: int) -> int:
        """Return the free cells that finding them needs."""
        return 0


@dataclass(frozen=True)
class LastTokens(Queries):
    """The last tokens of the prompt, where they stand; after a gap or an eviction, only those behind it.

    n: how many; 0 for as many as the policy always keeps.
    """

    n: int = 0

    def n_tokens(self, policy: Owner) -> int:
        return self.n or policy.n_recent

    def tokens(self, policy: Owner, cache: KVCache, n_keep: int) -> tuple[Tokens, int]:
        window = cache.sequence.recent[-self.n_tokens(policy) :]
        return window.astype(np.int64), cache.next_position - len(window)


class Filler(ABC):
    """Tokens that stand for an answer that nobody knows."""

    @abstractmethod
    def __call__(self, cache: KVCache, n_tokens: int) -> Tokens:
        """Return at most `n_tokens` tokens: integers."""


@dataclass(frozen=True)
class RandomTokens(Filler):
    """Random tokens of the vocabulary."""

    seed: int = 0

    def __call__(self, cache: KVCache, n_tokens: int) -> Tokens:
        return np.random.default_rng(self.seed).integers(cache.n_vocab, size=n_tokens)


@dataclass(frozen=True)
class AtAnswer(Queries):
    """Tokens where the answer will be written, from its first position L on.

    n: how many.
    n_look_ahead: so many of them are the answer itself, as the full cache would write it, see `KVCache.foresee`.
    filler: what the others are; None for no others.
    shift: positions behind L at which they stand instead.
    """

    n: int = 32
    n_look_ahead: int = 0
    filler: Filler | None = RandomTokens()
    shift: int = 0

    def n_tokens(self, policy: Owner) -> int:
        return self.n

    @property
    def n_foreseen(self) -> int:
        return self.n_look_ahead

    def tokens(self, policy: Owner, cache: KVCache, n_keep: int) -> tuple[Tokens, int]:
        ahead = np.array(cache.foresee(self.n_look_ahead) if self.n_look_ahead else [], dtype=np.int64)
        rest = self.filler(cache, self.n - len(ahead)) if self.filler else ahead[:0]
        return np.concatenate([ahead, rest]), cache.answer_position + self.shift


@dataclass(frozen=True)
class BranchLookAhead(Queries):
    """A guess at the answer, from a branch that `first_pass` evicts to the same budget.

    n: tokens of the guess. with_window: the last tokens of the prompt before it.
    """

    n: int = 8
    with_window: bool = False

    def n_tokens(self, policy: Owner) -> int:
        return self.n + (policy.n_recent if self.with_window else 0)

    def n_branch(self, n_keep: int) -> int:
        return n_keep + self.n

    def tokens(self, policy: Owner, cache: KVCache, n_keep: int) -> tuple[Tokens, int]:
        with cache.branch(policy.first_pass(n_keep).keep(cache, n_keep)) as branch:
            ahead = branch.look_ahead(self.n)[0]
        window = [*cache.sequence.recent, *cache.ending][-policy.n_recent :] if self.with_window else []
        return np.array([*window, *ahead], dtype=np.int64), cache.answer_position - len(window)
