"""`dapq-edge policies`."""

from dataclasses import dataclass

from .command import Command


@dataclass(frozen=True)
class Options:
    """No options."""


def policy_lines() -> list[str]:
    """Return a line for each policy."""
    from ..eviction.policies import DEFAULT_POLICY, all_policies

    policies = all_policies()
    width = max(map(len, policies))
    return [
        f"{name:{width}}  {policy.summary}{' (default)' if name == DEFAULT_POLICY else ''}"
        for name, policy in policies.items()
    ]


def run(options: Options) -> int:
    """Print them."""
    print("\n".join(policy_lines()))
    return 0


COMMAND = Command("policies", "list the eviction policies", Options, "policies:run")
