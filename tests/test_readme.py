"""The README's examples of code work."""

import re
from pathlib import Path

from context import Context
from test_probe import random_tokens
from tiny import Spec

from dapq_edge import policies
from dapq_edge.cache import KVCache

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_policy_of_the_readme(tiny_model):
    """A file of less than 30 lines is a policy."""
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "ProbingPolicy" in block]
    assert len(code.splitlines()) < 30
    module = {"__name__": "dapq_edge.policies.example", "__package__": "dapq_edge.policies"}
    exec(compile(code, "README.md", "exec"), module)
    (name,) = re.findall(r"^class (\w+)", code, re.MULTILINE)
    policy = module[name]()
    assert isinstance(policy, policies.Policy) and policy.name not in policies.POLICIES
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as context:
        cache = KVCache(context.ctx)
        cache.read(random_tokens(90, 1))
        policy.evict(cache, 40)
        assert cache.n_cells == 40 and cache.next_position == 90
