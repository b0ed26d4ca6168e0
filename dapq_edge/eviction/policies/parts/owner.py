"""View of a policy that its parts have."""

from typing import Protocol

from ....cache.kv_cache import KVCache
from ....cache.sequence import Keep
from ...heads import HeadProfile


class FirstPass(Protocol):
    """A policy that says what it would keep."""

    def keep(self, cache: KVCache, n_keep: int) -> Keep:
        """Return the cells that it would keep."""


class Owner(Protocol):
    """The settings of a policy, see `ScoringPolicy` and `ProbingPolicy`."""

    @property
    def granularity(self) -> str:
        """Name of the heads that keep the same cells."""

    @property
    def n_sink(self) -> int:
        """Cells at the start that are always kept."""

    @property
    def n_recent(self) -> int:
        """Cells at the end that are always kept."""

    @property
    def candidates(self) -> slice:
        """Cells that can be evicted."""

    @property
    def heads(self) -> HeadProfile | None:
        """The head profile of the model, if there is one."""

    @property
    def profile(self) -> HeadProfile:
        """The head profile of the model. Raises `UsageError` if there is none."""

    def first_pass(self, n_keep: int) -> FirstPass:
        """Return the policy that evicts a branch to look ahead on. Raises `UsageError` if there is none."""
