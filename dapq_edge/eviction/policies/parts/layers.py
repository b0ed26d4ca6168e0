"""Layer budgets: how many cells each layer keeps."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ...budget import by_weight, pyramid
from ...score import Scores, share_of_best
from .owner import Owner


class LayerBudget(ABC):
    """A way to share a budget among layers. `policy` is the one that it is a part of."""

    # cells of the layer that keeps most, for each cell of the budget
    max_share = 1.0

    # whether it needs the head profile of the policy, and whether one changes what it does
    needs_heads = False
    uses_heads = False

    @abstractmethod
    def cells(self, policy: Owner, n_keep: int, n_cells: int, layers: Sequence[int], scores: Scores) -> list[int]:
        """Return the cells of each of `layers`, at most `n_cells`, on average `n_keep`. scores: see `Scores`."""


@dataclass(frozen=True)
class Even(LayerBudget):
    """The same number in all layers."""

    def cells(self, policy: Owner, n_keep: int, n_cells: int, layers: Sequence[int], scores: Scores) -> list[int]:
        return [n_keep] * len(layers)


@dataclass(frozen=True)
class Pyramid(LayerBudget):
    """Higher layers keep fewer (PyramidKV, arXiv 2406.02069, section 4.2)."""

    max_share: float = 2.0

    def cells(self, policy: Owner, n_keep: int, n_cells: int, layers: Sequence[int], scores: Scores) -> list[int]:
        return pyramid(n_keep, len(layers), policy.n_sink + policy.n_recent, n_cells)


@dataclass(frozen=True)
class Weighted(LayerBudget):
    """Layers keep cells in proportion to a weight of each, see `by_weight`.

    min_share, max_share: bounds, in budgets.
    """

    min_share: float = 0.5
    max_share: float = 2.0

    @abstractmethod
    def weights(self, policy: Owner, n_keep: int, layers: Sequence[int], scores: Scores) -> list[float]:
        """Return how much each layer needs cells. Arguments as for `cells`."""

    def cells(self, policy: Owner, n_keep: int, n_cells: int, layers: Sequence[int], scores: Scores) -> list[int]:
        weights, n_least = self.weights(policy, n_keep, layers, scores), policy.n_sink + policy.n_recent
        return by_weight(n_keep, weights, n_least, n_cells, self.min_share, self.max_share)


@dataclass(frozen=True)
class ByError(Weighted):
    """Layers keep more where eviction did more harm when the model was calibrated (CompressKV, section 3.3)."""

    max_share: float = 1.6
    needs_heads = True

    def weights(self, policy: Owner, n_keep: int, layers: Sequence[int], scores: Scores) -> list[float]:
        return [policy.profile.errors[layer] for layer in layers]


@dataclass(frozen=True)
class ByScore(Weighted):
    """Layers keep more that have more of the best cells of all layers; their scores must mean the same.

    KVzip (arXiv 2505.23416, section 3.4) shares one budget among all heads in this way, as Ada-KV (arXiv 2407.11550)
    does among those of a layer; here the heads of a layer keep equal numbers.
    """

    def weights(self, policy: Owner, n_keep: int, layers: Sequence[int], scores: Scores) -> list[float]:
        return share_of_best([layer[:, policy.candidates] for layer in scores], n_keep)


@dataclass(frozen=True)
class BySensitivity(LayerBudget):
    """Layers keep more where evicting them alone did more harm when the model was calibrated.

    In bounded reading it takes no memory beside the budget: a context has as many cells as with layers that are alike.

    min_share, most: bounds, in budgets. otherwise: for models that were not calibrated so.
    """

    uses_heads = True

    min_share: float = 0.25
    most: float = 3.0
    otherwise: LayerBudget = Even()

    def cells(self, policy: Owner, n_keep: int, n_cells: int, layers: Sequence[int], scores: Scores) -> list[int]:
        known = policy.heads.sensitivity if policy.heads else {}
        if policy.granularity == "cell":
            return [n_keep] * len(layers)
        if not known:
            return self.otherwise.cells(policy, n_keep, n_cells, layers, scores)
        weights, n_least = [known.get(layer, 0.0) for layer in layers], policy.n_sink + policy.n_recent
        return by_weight(n_keep, weights, n_least, n_cells, self.min_share, self.most)
