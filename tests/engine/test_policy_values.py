"""Policies are values, made of parts; those of other packages come by entry points."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.formulas import L, read
from helpers.llamas import answer, opened
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import DapQ, Fused, SnapKV, UsageError, get_policy
from dapq_edge.eviction.policies import Eviction, ProbingPolicy
from dapq_edge.eviction.policies.parts import AtAnswer, LastTokens, Normalized, Pooled, Pyramid

SPEC = Spec(n_ctx=8192)


def test_policies_are_values():
    assert SnapKV() == get_policy("snapkv")
    assert SnapKV(n_recent=64) != SnapKV()
    assert replace(DapQ(), queries=AtAnswer(32, n_look_ahead=8)) != DapQ()
    assert len({SnapKV(), SnapKV(), SnapKV(n_recent=64)}) == 2
    assert get_policy(SnapKV(n_recent=64)) == SnapKV(n_recent=64)
    with pytest.raises(UsageError, match="policy 'no': choose one of fused, dapq"):
        get_policy("no")


def test_a_composition_is_its_parts(tiny_model):
    """snapkv's queries and score with pyramid's layers are pyramid, but for its name."""
    context, cache = read(tiny_model(SPEC))
    with context:
        parts = {"queries": LastTokens(), "score": Pooled(), "layer_budget": Pyramid(), "n_recent": 8}
        made = ProbingPolicy(name="mine", **parts)
        for mine, theirs in zip(made.keep(cache, 40), get_policy("pyramid").keep(cache, 40), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert made.max_share == 2.0
        assert replace(made, n_recent=64).n_probe == 64


def test_evict_says_what_it_kept(tiny_model):
    context, cache = read(tiny_model(SPEC))
    with context:
        policy = Fused(score=Normalized(pooled=0.5))
        assert policy.evict(cache, L) is None
        keep = policy.keep(cache, 40)
        evicted = policy.evict(cache, 40)
        assert isinstance(evicted, Eviction)
        for kept, expected in zip(evicted.keep, keep, strict=True):
            np.testing.assert_array_equal(kept, expected)
        assert 0 < evicted.attention_kept < 1
        assert cache.sequence.attention_kept == evicted.attention_kept


def test_the_drop_in_takes_a_policy(tiny_model):
    with opened(tiny_model(SPEC), policy=SnapKV(n_recent=64), n_ctx=8192) as llama:
        expected = answer(llama, random_tokens(1500, 1))
        assert llama.engine.policy == SnapKV(n_recent=64)
        llama.set_eviction(policy="snapkv")
        assert llama.engine.policy == SnapKV()
        llama.set_eviction()
        assert answer(llama, random_tokens(1500, 1)) == expected


PLUGIN = '''
from dataclasses import dataclass

from dapq_edge.eviction.policies.base import ProbingPolicy, Queries, Score
from dapq_edge.eviction.policies.parts import LastTokens, Pooled


@dataclass(frozen=True)
class Late(ProbingPolicy):
    """Of another package."""

    name: str = "late"
    summary: str = "what the last tokens attend to"
    queries: Queries = LastTokens()
    score: Score = Pooled()
'''


def install(folder, entry_points):
    """A package as pip leaves it."""
    (folder / "late.py").write_text(PLUGIN)
    info = folder / "late-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dapq_edge.policies]\n{entry_points}\n")


@pytest.mark.parametrize(
    ("entry_points", "expected"),
    [
        ("late = late:Late", "late           what the last tokens attend to"),
        ("late = late:dataclass", "is no subclass of dapq_edge.Policy"),
        ("late = late:Gone", "cannot be imported"),
        # ours cannot be replaced
        ("fused = late:Late", "fused          cells that the answer's first tokens"),
    ],
)
def test_another_package_adds_a_policy(tmp_path, entry_points, expected):
    install(tmp_path, entry_points)
    command = [sys.executable, "-m", "dapq_edge", "policies"]
    result = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert expected in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
