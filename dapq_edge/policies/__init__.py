from ..errors import UsageError
from ..heads import HeadProfile
from ..select import GRANULARITIES
from .base import Policy, ScoringPolicy
from .compresskv import CompressKV
from .dapq import DapQ
from .full import Full
from .fused import Fused
from .h2o import H2O
from .laq import LAQ, LAQPlusPlus
from .oracle import Oracle
from .pyramid import PyramidKV
from .snapkv import SnapKV
from .streaming import Streaming
from .tova import TOVA

DEFAULT_POLICY = "fused"

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (Fused, DapQ, LAQ, LAQPlusPlus, CompressKV, SnapKV, PyramidKV, TOVA, H2O, Streaming, Full, Oracle)
}


def get_policy(name: str, granularity: str = GRANULARITIES[0], heads: HeadProfile | None = None) -> Policy:
    """The policy with its default settings. Raises `UsageError` if there is none of this name."""
    if name not in POLICIES:
        raise UsageError(f"--policy {name!r}: choose one of {', '.join(POLICIES)}")
    policy = POLICIES[name]
    return policy(granularity=granularity, heads=heads) if issubclass(policy, ScoringPolicy) else policy()
