"""Base of all policies: probe -> score -> budget -> select -> refit -> evict."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ...cache.kv_cache import KVCache
from ...cache.sequence import Keep
from ...cache.sequence_cells import LayerAttention
from ...cells import N_RECENT, N_SINK
from ...errors import UsageError
from ..budget import Budget, Cells, in_steps
from ..heads import HeadProfile
from ..score import Scores, attention_kept, cells_to_hold
from ..select import Pinned, n_most_pinned
from .parts import AsTheyAre, Best, Even, FirstPass, LayerBudget, Queries, Score, Selection, Values
from .parts.queries import Tokens
from .parts.values import NewValues

__all__ = ["Eviction", "Policy", "ProbingPolicy", "Queries", "Score", "ScoringPolicy"]

# share of the attention that a budget which may be raised shall hold, see docs/results.md, "Fidelity"
MIN_KEPT = 0.8

# from the cells that stay to their values
Fit = Callable[[Keep], NewValues]

# free cells that probing needs at least, so that chunks have the same size with most policies
N_PROBE = 32


@dataclass(frozen=True)
class Eviction:
    """Result of an eviction.

    Attributes:
        keep: For each evicted layer, the cells that each KV head kept, counted before the eviction.
        attention_kept: The share of the attention that they hold, see `score.attention_kept`, or None if none was seen.
    """

    keep: Keep
    attention_kept: float | None


@dataclass(frozen=True)
class Policy(ABC):
    """A way to choose the cells that a sequence keeps. It is a value: two with the same parts are equal.

    Attributes:
        name: For the command line and the results of evaluations.
        summary: One line.
    """

    # whether it looks at attention
    sees_attention: ClassVar[bool] = False

    # whether it can evict only once, when it has seen the whole prompt
    needs_whole_prompt: ClassVar[bool] = False

    name: str = ""
    summary: str = ""

    @abstractmethod
    def check(self, cache: KVCache) -> None:
        """Raise `UnsupportedModelError` if the model of `cache` cannot be evicted in this way, or `UsageError`."""

    @abstractmethod
    def cells_to_keep(self, budget: Budget, n_cells: int) -> int:
        """Return the cells that a sequence of `n_cells` cells keeps. Raises `UsageError` if the budget is too small."""

    @abstractmethod
    def evict(self, cache: KVCache, n_keep: int, n_most: int = 0) -> Eviction | None:
        """Evict cells of `cache` until it has `n_keep`; it is left alone if it has no more than that.

        Args:
            cache: The last token was just read.
            n_keep: Cells, on average of the layers.
            n_most: Cells that are kept at most where eviction would hurt.

        Returns:
            What was kept, or None if nothing was evicted.
        """

    @property
    def while_reading(self) -> Policy:
        """The policy that evicts what was read of a prompt, before its end is known."""
        return self

    @property
    def n_probe(self) -> int:
        """Free cells that it needs while it probes."""
        return 0

    @property
    def n_foreseen(self) -> int:
        """First tokens of the answer that it looks ahead to on all cells, at most; see `KVCache.foresee`."""
        return 0

    @property
    def max_share(self) -> float:
        """Cells of the layer that keeps most, for each cell of the budget."""
        return 1.0

    @property
    def needs_heads(self) -> bool:
        """True if it cannot do without a head profile."""
        return False

    @property
    def uses_heads(self) -> bool:
        """True if a head profile changes what it keeps."""
        return self.needs_heads

    def n_branch(self, n_keep: int) -> int:
        """Return the free cells that it needs for a branch."""
        return 0

    def with_heads(self, heads: HeadProfile | None) -> Policy:
        """Return the same policy with the retrieval heads of a model, if it can use them and has none."""
        return self


@dataclass(frozen=True)
class ScoringPolicy(Policy):
    """Keeps the cells with the best scores.

    Attributes:
        granularity: Which heads keep the same cells, see `select.GRANULARITIES`.
        heads: The head profile of the model, for the parts that use it.
        n_sink: Cells at the start that are always kept.
        n_recent: Cells at the end that are always kept.
        layer_budget: How layers share the budget.
        selection: How cells are chosen by their scores.
    """

    sees_attention: ClassVar[bool] = True

    granularity: str = "head"
    heads: HeadProfile | None = None
    n_sink: int = N_SINK
    n_recent: int = N_RECENT
    layer_budget: LayerBudget = Even()
    selection: Selection = Best()

    @abstractmethod
    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        """Score each cell, for each KV head of each layer of `cache.gathered_heads`. The cache is left as it was."""

    def look(self, cache: KVCache, n_keep: int) -> tuple[Scores, Fit]:
        """Return the scores, and what gives new values for the cells that stay. The cache is left as it was."""
        return self.scores(cache, n_keep), lambda keep: {}

    @property
    def max_share(self) -> float:
        return self.layer_budget.max_share

    @property
    def needs_heads(self) -> bool:
        return self.layer_budget.needs_heads

    @property
    def uses_heads(self) -> bool:
        return self.needs_heads or self.layer_budget.uses_heads

    @property
    def profile(self) -> HeadProfile:
        """The head profile. Raises `UsageError` if there is none."""
        if self.heads is None:
            raise UsageError(f"{self.name} needs the retrieval heads of the model: run dapq-edge heads calibrate once")
        return self.heads

    def with_heads(self, heads: HeadProfile | None) -> Policy:
        return self if self.heads else replace(self, heads=heads)

    def check(self, cache: KVCache) -> None:
        cache.gathered_heads()
        if self.granularity == "cell" and self.max_share > 1:
            raise UsageError(f"cell: {self.name} keeps other numbers of cells in each layer", param="granularity")

    def cells_to_keep(self, budget: Budget, n_cells: int) -> int:
        always = min(self.n_sink + self.n_recent, n_cells)
        n_keep = budget.n_keep(n_cells)
        if n_keep < always and isinstance(budget, Cells):
            raise UsageError(
                f"{budget}: {self.name} always keeps {always} cells ({self.n_sink} sinks, {self.n_recent} recent)",
                param="kv_budget",
            )
        return max(n_keep, always)

    def enough(self, scores: Scores, n_keep: int, n_most: int) -> int:
        """Return `n_keep`, or as many cells up to `n_most` as hold enough of the attention."""
        if n_keep >= n_most or not self.sees_attention:
            return n_keep
        wanted = self.n_sink + self.n_recent + cells_to_hold(scores, MIN_KEPT, self.candidates)
        return max(n_keep, min(wanted, n_most))

    def keep(self, cache: KVCache, n_keep: int) -> Keep:
        """Return the cells that `evict` keeps. The cache is left as it was."""
        return self.select(cache, self.scores(cache, n_keep), n_keep)

    def select(self, cache: KVCache, scores: Scores, n_keep: int) -> Keep:
        """Return the cells that are kept with these scores."""
        return self.choose(cache, scores, self.layer_cells(cache, scores, n_keep))

    def layer_cells(self, cache: KVCache, scores: Scores, n_keep: int) -> list[int]:
        """Return how many cells each layer keeps."""
        scores = [layer[:, n:] for layer, n in zip(scores, _missing(cache, scores), strict=True)]
        # a share above 1 has memory of its own
        n_room = cache.n_layer_most - self.n_branch(n_keep)
        n_most = min(cache.n_cells, max(math.ceil(n_keep * self.max_share), n_room))
        budgets = self.layer_budget.cells(self, n_keep, n_most, list(cache.gathered_heads()), scores)
        n_least = min(n_keep, self.n_sink + self.n_recent + n_most_pinned(_pinned(cache, scores)))
        return in_steps(budgets, [layer.shape[1] for layer in scores], n_least, cache.layer_step)

    def choose(self, cache: KVCache, scores: Scores, n_kept: Sequence[int]) -> Keep:
        """Return the cells that are kept with these scores, so many in each layer."""
        missing = _missing(cache, scores)
        scores = [layer[:, n:] for layer, n in zip(scores, missing, strict=True)]
        keep = self.selection.cells(self, scores, n_kept, _pinned(cache, scores))
        return [cells + n for cells, n in zip(keep, missing, strict=True)]

    def first_pass(self, n_keep: int) -> FirstPass:
        """Return the policy that evicts a branch to look ahead on. Raises `UsageError` if it has none."""
        raise UsageError(f"{self.name} has no policy for a first pass, which its queries need")

    @property
    def candidates(self) -> slice:
        """Cells that can be evicted."""
        return slice(self.n_sink, -self.n_recent or None)

    def evict(self, cache: KVCache, n_keep: int, n_most: int = 0) -> Eviction | None:
        self.check(cache)
        if n_keep >= cache.n_cells:
            return None
        scores, fit = self.look(cache, n_keep)
        keep = self.select(cache, scores, self.enough(scores, n_keep, n_most))
        kept = attention_kept(scores, keep, self.candidates) if self.sees_attention else None
        values = fit(keep)
        cache.evict(keep, kept)
        for layer, rows in values.items():
            cache.put_values(layer, rows)
        return Eviction(keep, kept)


def _missing(cache: KVCache, scores: Scores) -> list[int]:
    """Return how many of the first cells each layer lacks."""
    return cache.sequence.n_missing or [0] * len(scores)


def _pinned(cache: KVCache, scores: Scores) -> Pinned:
    """Return the cells of each layer that must be kept."""
    tokens = cache.sequence.pinned
    return cache.sequence.cells_of(tokens, [len(layer) for layer in scores]) if tokens.size else []


@dataclass(frozen=True)
class ProbingPolicy(ScoringPolicy):
    """Scores cells by the attention of some queries.

    Attributes:
        queries: The tokens to probe with, and where they stand.
        score: How their attention becomes a score.
        values: What becomes of V in the cells that stay.
    """

    queries: Queries = None  # type: ignore[assignment]
    score: Score = None  # type: ignore[assignment]
    values: Values = AsTheyAre()

    @property
    def n_probe(self) -> int:
        return max(N_PROBE, self.queries.n_tokens(self))

    @property
    def n_foreseen(self) -> int:
        return self.queries.n_foreseen

    @property
    def needs_heads(self) -> bool:
        return self.score.needs_heads or super().needs_heads

    def n_branch(self, n_keep: int) -> int:
        return self.queries.n_branch(n_keep)

    def check(self, cache: KVCache) -> None:
        super().check(cache)
        heads = cache.probed_heads()
        if self.needs_heads or self.heads:
            self.profile.check(heads)

    def probe(self, cache: KVCache, tokens: Tokens, pos: int) -> list[LayerAttention]:
        """Return the attention of queries from `pos` on, in the layers that can be evicted."""
        # a layer that reads the cells of another one has none of its own
        own = cache.gathered_heads()
        return [layer for layer in cache.probe(tokens, pos, self.score.reduce) if layer.layer in own]

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        return self.look(cache, n_keep)[0]

    def look(self, cache: KVCache, n_keep: int) -> tuple[Scores, Fit]:
        tokens, pos = self.queries.tokens(self, cache, n_keep)
        scores = self.score(self, cache, self.probe(cache, tokens, pos))
        return scores, lambda keep: self.values.fit(cache, tokens, pos, keep)
