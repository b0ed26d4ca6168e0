"""The parts that a policy is made of: queries, scores, layer budgets, selections and values."""

from .layers import ByError, ByScore, BySensitivity, Even, LayerBudget, Pyramid
from .owner import FirstPass, Owner
from .queries import AtAnswer, BranchLookAhead, Filler, LastTokens, Queries, RandomTokens
from .scores import HeadsOfLayer, Normalized, Pooled, Score
from .selections import Best, BestAndRecentHalf, Selection
from .values import AsTheyAre, Refitted, Values

__all__ = [
    "AsTheyAre",
    "AtAnswer",
    "Best",
    "BestAndRecentHalf",
    "BranchLookAhead",
    "ByError",
    "ByScore",
    "BySensitivity",
    "Even",
    "Filler",
    "FirstPass",
    "HeadsOfLayer",
    "LastTokens",
    "LayerBudget",
    "Normalized",
    "Owner",
    "Pooled",
    "Pyramid",
    "Queries",
    "RandomTokens",
    "Refitted",
    "Score",
    "Selection",
    "Values",
]
