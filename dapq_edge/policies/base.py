"""What all policies share: probe -> score -> budget -> select -> evict."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..budgets import Budget, in_steps
from ..cache import Keep, KVCache, LayerAttention
from ..errors import UsageError
from ..heads import HeadProfile
from ..native import ProbeType
from ..scores import Scores, cells_to_hold, group_heads, held, pool
from ..select import select

# share of the attention that a budget which may be raised shall hold, see README, "Fidelity"
MIN_HELD = 0.8

# tokens to probe with, and the position of the first one
Queries = tuple[Sequence[int] | npt.NDArray, int]


@dataclass(frozen=True)
class Policy(ABC):
    """A way to choose the cells that a sequence keeps.

    heads: the retrieval heads of the model, for the policies that use them, and to choose what to read of a document.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    # free cells that the policy needs while it probes
    n_probe: ClassVar[int] = 0

    # whether it can evict again and again while a prompt is read, and whether it can choose what to read of a document
    reads_in_chunks: ClassVar[bool] = True
    skims: ClassVar[bool] = False

    # whether it cannot do without a head profile
    needs_heads: ClassVar[bool] = False

    # cells of the layer that keeps most, for each cell of the budget
    max_share: ClassVar[float] = 1.0

    heads: HeadProfile | None = None

    @abstractmethod
    def check(self, cache: KVCache) -> None:
        """Raise `UnsupportedModelError` if the model of `cache` cannot be evicted in this way, or `UsageError`."""

    @abstractmethod
    def cells_to_keep(self, budget: Budget, n_cells: int) -> int:
        """Cells that a sequence of `n_cells` cells keeps. Raises `UsageError` if the budget is too small."""

    @abstractmethod
    def evict(self, cache: KVCache, n_keep: int, n_most: int = 0) -> float | None:
        """Evict cells of `cache` until it has `n_keep`; it is left alone if it has no more than that.

        Where eviction would hurt, up to `n_most` are kept. Returns the share of the attention that the kept cells hold,
        see `scores.held`, or None if nothing was evicted or no attention was seen.
        """

    @property
    def while_reading(self) -> "Policy":
        """The policy that evicts what was read of a prompt, before its end is known."""
        return self

    def n_branch(self, n_keep: int) -> int:
        """Free cells that it needs for a branch."""
        return 0


@dataclass(frozen=True)
class ScoringPolicy(Policy):
    """Keeps the cells with the best scores.

    granularity: which heads keep the same cells, see `select.GRANULARITIES`.
    n_sink, n_recent: cells at the start and at the end that are always kept.
    """

    granularity: str = "head"
    n_sink: int = 4
    n_recent: int = 8

    # whether the scores are shares of attention
    sees_attention: ClassVar[bool] = True

    @abstractmethod
    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        """Score of each cell, for each KV head of each layer of `cache.gathered_heads`. The cache is left as it was."""

    def check(self, cache: KVCache) -> None:
        cache.gathered_heads()
        if self.granularity == "cell" and self.max_share > 1:
            raise UsageError(f"--granularity cell: {self.name} keeps other numbers of cells in each layer")

    def cells_to_keep(self, budget: Budget, n_cells: int) -> int:
        always = min(self.n_sink + self.n_recent, n_cells)
        n_keep = budget.cells(n_cells)
        if budget.is_share:
            return max(n_keep, always)
        if n_keep < always:
            raise UsageError(
                f"--kv-budget {budget.amount:g}: {self.name} always keeps {always} cells "
                f"({self.n_sink} sinks, {self.n_recent} recent)"
            )
        return n_keep

    def layer_budgets(self, n_keep: int, n_cells: int, layers: list[int]) -> list[int]:
        """Cells that each of the layers keeps of `n_cells`, on average `n_keep`."""
        return [n_keep] * len(layers)

    def keep(self, cache: KVCache, n_keep: int) -> Keep:
        """The cells that `evict` keeps. The cache is left as it was."""
        return self.select(cache, self.scores(cache, n_keep), n_keep)

    def select(self, cache: KVCache, scores: Scores, n_keep: int) -> Keep:
        """The cells that are kept with these scores."""
        missing = cache.n_missing or [0] * len(scores)
        scores = [layer[:, n:] for layer, n in zip(scores, missing, strict=True)]
        budgets = self.layer_budgets(n_keep, cache.n_cells, list(cache.gathered_heads()))
        n_kept = in_steps(budgets, [layer.shape[1] for layer in scores], self.n_sink + self.n_recent)
        keep = select(scores, n_kept, self.n_sink, self.n_recent, self.granularity)
        return [cells + n for cells, n in zip(keep, missing, strict=True)]

    @property
    def _candidates(self) -> slice:
        """Cells that can be evicted."""
        return slice(self.n_sink, -self.n_recent or None)

    def held(self, scores: Scores, keep: Keep) -> float | None:
        """The share of the attention that the cells in `keep` hold, see `scores.held`; None if the policy sees none."""
        return held(scores, keep, self._candidates) if self.sees_attention else None

    def evict(self, cache: KVCache, n_keep: int, n_most: int = 0) -> float | None:
        self.check(cache)
        if n_keep >= cache.n_cells:
            return None
        scores = self.scores(cache, n_keep)
        if n_keep < n_most and self.sees_attention:
            wanted = self.n_sink + self.n_recent + cells_to_hold(scores, MIN_HELD, self._candidates)
            n_keep = max(n_keep, min(wanted, n_most))
        keep = self.select(cache, scores, n_keep)
        cache.evict(keep)
        return self.held(scores, keep)


@dataclass(frozen=True)
class ProbingPolicy(ScoringPolicy):
    """Scores cells by the attention of some queries.

    Its average over `pooling` cells, then the mean over the query heads of a KV head.
    """

    n_probe: ClassVar[int] = 32
    skims: ClassVar[bool] = True

    # how the attention of the queries becomes one number for each cell
    reduce: ClassVar[ProbeType] = ProbeType.MEAN

    pooling: int = 5

    @abstractmethod
    def queries(self, cache: KVCache, n_keep: int) -> Queries:
        """The tokens to probe with, at most `n_probe`, and the position of the first one."""

    def check(self, cache: KVCache) -> None:
        super().check(cache)
        heads = cache.probed_heads()
        if self.needs_heads and not self.heads:
            raise UsageError(f"{self.name} needs the retrieval heads of the model: run dapq-edge heads calibrate once")
        if self.heads:
            self.heads.check(heads)

    def probe(self, cache: KVCache, n_keep: int) -> list[LayerAttention]:
        """The attention of the queries, in the layers that can be evicted."""
        tokens, pos = self.queries(cache, n_keep)
        # a layer that reads the cells of another one has none of its own
        own = cache.gathered_heads()
        return [layer for layer in cache.probe(tokens, pos, self.reduce) if layer.layer in own]

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        return [self.layer_scores(layer) for layer in self.probe(cache, n_keep)]

    def layer_scores(self, layer: LayerAttention) -> npt.NDArray[np.float32]:
        """float32 [KV heads, cells]."""
        return group_heads(pool(layer.attention, self.pooling), layer.n_head_kv)
