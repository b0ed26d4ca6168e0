"""`dapq-edge policies`."""

import argparse

from ..policies import DEFAULT_POLICY, POLICIES


def run(args: argparse.Namespace) -> int:
    width = max(map(len, POLICIES))
    for name, policy in POLICIES.items():
        print(f"{name:{width}}  {policy.summary}{' (default)' if name == DEFAULT_POLICY else ''}")
    return 0
