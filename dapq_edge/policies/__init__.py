from ..errors import UsageError
from ..select import GRANULARITIES
from .base import Policy, ScoringPolicy
from .dapq import DapQ
from .full import Full
from .streaming import Streaming

POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (DapQ, Streaming, Full)}


def get_policy(name: str, granularity: str = GRANULARITIES[0]) -> Policy:
    """The policy with its default settings. Raises `UsageError` if there is none of this name."""
    if name not in POLICIES:
        raise UsageError(f"--policy {name!r}: choose one of {', '.join(POLICIES)}")
    policy = POLICIES[name]
    return policy(granularity=granularity) if issubclass(policy, ScoringPolicy) else policy()
