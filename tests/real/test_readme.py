"""The README's examples of code work, and its first command, for a user who is new."""

import os
import re
import subprocess
import sys

import pytest
from helpers.context import Context
from helpers.paths import ROOT
from helpers.real import find, needs_build
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.eviction import policies

README = (ROOT / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def new_user(tmp_path):
    """The environment of somebody who has the weights of SmolLM2, and no head profiles."""
    weights = find("smollm2-135m").parent
    return os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "LLAMA_CACHE": str(weights)}


@pytest.mark.slow
@needs_build
def test_demo(new_user, tmp_path):
    """demo.sh, in a folder where setup.sh has nothing to do."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/setup.sh").write_text("#!/bin/sh\n")
    (tmp_path / "scripts/setup.sh").chmod(0o755)
    (tmp_path / "scripts/demo.sh").write_text((ROOT / "scripts/demo.sh").read_text())
    (tmp_path / ".build").symlink_to(ROOT / ".build")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    result = subprocess.run(["bash", tmp_path / "scripts/demo.sh"], env=new_user, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Half of the cache was enough" in result.stdout


@pytest.mark.slow
@needs_build
@pytest.mark.parametrize("code", [code for code in CODE if "find_model" in code])
def test_code_of_the_readme(code, new_user):
    """What it prints begins with what its comments say, if they do."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=new_user, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    said = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    # "upper case" or "uppercase": the CPUs differ
    printed, said = ([line.replace(" ", "") for line in lines] for lines in (result.stdout.splitlines(), said))
    assert printed[: len(said)] == said


def test_code_is_beside_a_clone(tmp_path):
    """A folder of the same name does not hide the package."""
    (tmp_path / "dapq_edge").mkdir()
    subprocess.run([sys.executable, "-c", "from dapq_edge import Llama"], cwd=tmp_path, check=True)


def test_policy_of_the_readme(tiny_model):
    """A file of less than 30 lines is a policy."""
    (code,) = [code for code in CODE if "ProbingPolicy" in code]
    assert len(code.splitlines()) < 30
    module = {"__name__": "dapq_edge.policies.example", "__package__": "dapq_edge.policies"}
    exec(compile(code, "README.md", "exec"), module)
    (name,) = re.findall(r"^class (\w+)", code, re.MULTILINE)
    policy = module[name]()
    assert isinstance(policy, policies.Policy)
    assert policy.name not in policies.POLICIES
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as context:
        cache = KVCache(context.ctx)
        cache.read(random_tokens(90, 1))
        policy.evict(cache, 40)
        assert cache.n_cells == 40
        assert cache.next_position == 90
