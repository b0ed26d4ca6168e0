"""Memory that reading takes at most, and what happens when there is none."""

import resource
import sys

import pytest
from helpers.processes import run
from helpers.tiny import Spec

MIB = 2**20


READ = """
import resource, sys
from dapq_edge import open_model
from dapq_edge.eviction.budget import parse_budget
from dapq_edge.eviction.policies import get_policy
from helpers.reading import make_prompt

engine = open_model(sys.argv[1], n_threads=1)
prompt = make_prompt(int(sys.argv[2]), has_question=sys.argv[3] == "skim")
stats = engine.read(prompt, get_policy("fused"), parse_budget("256"), n_predict=16, allow_overflow=True)
print(stats.cells_peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["skim", "chunked"])
def test_reading_takes_the_same_memory_for_any_length(tiny_model, mode):
    """Four times as long, and the peak of the process stays within 10 MiB."""
    short, long = (run(READ, tiny_model(Spec(n_ctx=65536)), n, mode).split() for n in (8000, 32000))
    assert short[0] == long[0] == "768"
    assert abs(int(long[1]) - int(short[1])) * 1024 < 10 * MIB


LIMITED = """
import resource, sys
import psutil
from dapq_edge import KVCache, open_model
from dapq_edge.errors import DapqError
from dapq_edge.eviction.policies import get_policy
from dapq_edge.llamacpp import native
from dapq_edge.llamacpp.log import captured_log
from helpers.reading import make_prompt

engine = open_model(sys.argv[1], n_threads=1)
cache = KVCache(engine.model.open_context(2**16))
prompt = make_prompt(20000)
cache.read(prompt.tokens[:19000])
before = cache.logits.copy()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
# the weights of the probe of so many cells do not fit
resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 8 * 2**20, hard))
with captured_log():
    try:
        get_policy("fused").evict(cache, 100)
        print("evicted", end=" ")
    except DapqError as error:
        print(error, end=" ")
    try:
        native.resize(cache.ctx, 2**20)
        print("resized")
    except DapqError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
# nothing was lost
assert cache.n_cells == 19000
cache.read(prompt.tokens[19000:19100])
get_policy("fused").evict(cache, 100)
assert cache.n_cells == 100
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS") or sys.platform != "linux", reason="needs a limit of memory")
def test_no_memory_in_the_middle(tiny_model):
    """The error says what to lower, and the process goes on."""
    text = run(LIMITED, tiny_model(Spec(n_ctx=65536)))
    assert "not enough memory" in text
    assert "lower" in text
    assert "evicted" not in text
    assert "resized" not in text
