"""base+question: a share of the budget for questions to come, the rest for the one that is asked."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...cache.kv_cache import KVCache
from ...cache.sequence import Keep
from ..score import Scores
from .base import ScoringPolicy
from .fused import Fused
from .kvzip import KVzip
from .parts import ByScore, BySensitivity, LayerBudget

# more than any score of `fused`
CHOSEN = 2.0


@dataclass(frozen=True)
class BaseQuestion(ScoringPolicy):
    """Keep what `kvzip` would for a share of the budget, and of the other cells what `fused` would.

    While a text is read in chunks, before its end is known, it evicts as `kvzip`. The share was chosen; see
    docs/results.md.

    Attributes:
        share: Of the cells that can be chosen, 0 to 1.
    """

    name: str = "base+question"
    summary: str = "kvzip for three quarters of the budget, for questions to come, and fused for the rest"
    layer_budget: LayerBudget = BySensitivity(otherwise=ByScore())
    share: float = 0.75

    @property
    def base(self) -> KVzip:
        """Chooses cells for questions to come."""
        return KVzip(**self._settings)

    @property
    def question(self) -> Fused:
        """Chooses cells for the question that is asked."""
        return Fused(**self._settings)

    @property
    def while_reading(self) -> KVzip:
        return self.base

    @property
    def n_probe(self) -> int:
        return max(self.base.n_probe, self.question.n_probe)

    @property
    def n_foreseen(self) -> int:
        return self.question.n_foreseen

    def check(self, cache: KVCache) -> None:
        super().check(cache)
        self.question.check(cache)

    def scores(self, cache: KVCache, n_keep: int) -> Scores:
        return self.question.scores(cache, n_keep)

    def select(self, cache: KVCache, scores: Scores, n_keep: int) -> Keep:
        base = self.base.scores(cache, n_keep)
        n_kept = self.base.layer_cells(cache, base, n_keep)
        chosen = self.base.choose(cache, base, [self._n_base(cache, n) for n in n_kept])
        scores = [layer.copy() for layer in scores]
        for layer, cells in zip(scores, chosen, strict=True):
            np.put_along_axis(layer, cells, CHOSEN, axis=1)
        return self.choose(cache, scores, n_kept)

    def _n_base(self, cache: KVCache, n_keep: int) -> int:
        n_free = n_keep - self.n_sink - self.n_recent - cache.sequence.pinned.size
        return n_keep - int((1 - self.share) * max(0, n_free))

    @property
    def _settings(self) -> dict[str, Any]:
        names = "granularity", "heads", "n_sink", "n_recent", "layer_budget", "selection"
        return {name: getattr(self, name) for name in names}
