"""Policies by name: those of this package, and those that other packages register."""

import functools
from importlib.metadata import entry_points

from ...errors import DapqError, UsageError
from ..heads import HeadProfile
from ..select import GRANULARITIES
from .base import Eviction, Policy, ProbingPolicy, ScoringPolicy
from .base_question import BaseQuestion
from .compresskv import CompressKV
from .dapq import DapQ
from .full import Full
from .fused import Fused
from .h2o import H2O
from .kvzip import KVzip
from .laq import LAQ, LAQPlusPlus
from .oracle import Oracle
from .pyramid import PyramidKV
from .snapkv import SnapKV
from .streaming import Streaming
from .tova import TOVA

__all__ = [
    "DEFAULT_POLICY",
    "ENTRY_POINTS",
    "H2O",
    "LAQ",
    "POLICIES",
    "TOVA",
    "BaseQuestion",
    "CompressKV",
    "DapQ",
    "Eviction",
    "Full",
    "Fused",
    "KVzip",
    "LAQPlusPlus",
    "Oracle",
    "Policy",
    "ProbingPolicy",
    "PyramidKV",
    "ScoringPolicy",
    "SnapKV",
    "Streaming",
    "all_policies",
    "get_policy",
]

DEFAULT_POLICY = "fused"

# the group of entry points by which other packages add policies
ENTRY_POINTS = "dapq_edge.policies"

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        *(Fused, DapQ, BaseQuestion, KVzip, LAQ, LAQPlusPlus, CompressKV, SnapKV, PyramidKV, TOVA, H2O),
        *(Streaming, Full, Oracle),
    )
}


@functools.cache
def all_policies() -> dict[str, type[Policy]]:
    """Return the policies of this package and those of others, by name; ours cannot be replaced.

    Raises `DapqError` if a package registers what is no policy, or what cannot be imported.
    """
    found: dict[str, type[Policy]] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            policy = entry.load()
        except Exception as error:  # whatever the other package does when it is imported
            raise DapqError(f"the policy {entry.name} ({entry.value}) cannot be imported: {error}") from error
        if not (isinstance(policy, type) and issubclass(policy, Policy)):
            raise DapqError(f"the policy {entry.name} ({entry.value}) is no subclass of dapq_edge.Policy")
        found[entry.name] = policy
    return found | POLICIES


def get_policy(policy: str | Policy, granularity: str = GRANULARITIES[0], heads: HeadProfile | None = None) -> Policy:
    """Return a policy by its name, with its default settings, or the one that is given.

    Args:
        policy: A name of `all_policies`, or a policy.
        granularity: For a policy by name, which heads keep the same cells; see `select.GRANULARITIES`.
        heads: The head profile that it uses, if it has none of its own.

    Raises `UsageError` if there is none of this name.
    """
    if isinstance(policy, Policy):
        return policy.with_heads(heads)
    if policy not in all_policies():
        raise UsageError(f"{policy!r}: choose one of {', '.join(all_policies())}", param="policy")
    kind = all_policies()[policy]
    return kind(granularity=granularity, heads=heads) if issubclass(kind, ScoringPolicy) else kind()
