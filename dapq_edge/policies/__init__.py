"""Policies by name. To add one, write its file and put its class in `POLICIES`."""

from ..errors import UsageError
from .base import Policy
from .dapq import DapQ
from .full import Full
from .streaming import Streaming

POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (DapQ, Streaming, Full)}


def get_policy(name: str) -> Policy:
    """The policy with its default settings. Raises `UsageError` if there is none of this name."""
    if name not in POLICIES:
        raise UsageError(f"--policy {name!r}: choose one of {', '.join(POLICIES)}")
    return POLICIES[name]()
