"""Memory of the process: what is given back, what reading takes at most, and what happens when there is none."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from context import Context
from test_probe import N_PROMPT, PROMPT
from tiny import Spec

from dapq_edge import native

MIB = 2**20
N_CELLS = 2**16


def rss() -> int:
    return psutil.Process().memory_info().rss


def keep_last(c: Context, n_keep: int) -> None:
    cells = np.arange(N_PROMPT - n_keep, N_PROMPT)
    native.seq_gather(c.ctx, 0, 0, [np.tile(cells, (n_head, 1)) for n_head in native.gather_heads(c.ctx).values()])


@pytest.mark.parametrize("flash_attn", [False, True])
def test_memory_is_given_back(tiny_model, flash_attn):
    """At least 90% of the bytes that are freed."""
    with Context(tiny_model(Spec()), n_ctx=N_CELLS, flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        keep_last(c, 20)
        allocated, before = native.memory_bytes(c.ctx), rss()
        assert allocated > 90 * MIB
        native.resize(c.ctx, 256)
        freed = allocated - native.memory_bytes(c.ctx)
        assert freed > 0.99 * allocated
        assert before - rss() >= 0.9 * freed


PEAK = """
import resource, sys
sys.path.insert(0, "tests")
from pathlib import Path
from context import Context
from dapq_edge import native
from llama_cpp._logger import set_verbose
from test_memory import keep_last
from test_probe import PROMPT

set_verbose(False)
with Context(Path(sys.argv[1]), n_ctx=2**16) as c:
    c.decode(PROMPT, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    keep_last(c, 20)
    native.resize(c.ctx, 256)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def run(script: str, *args: object) -> str:
    command = [sys.executable, "-c", script, *map(str, args)]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


def test_no_second_buffer(tiny_model):
    """There is never one of the old size beside the new one."""
    assert int(run(PEAK, tiny_model(Spec()))) * 1024 < 5 * MIB


READ = """
import resource, sys
sys.path.insert(0, "tests")
from pathlib import Path
from dapq_edge.budgets import Budget
from dapq_edge.reading import ReadingLlama
from dapq_edge.policies import get_policy
from test_reader import make_prompt

llama = ReadingLlama(sys.argv[1], n_threads=2)
prompt = make_prompt(int(sys.argv[2]), has_question=sys.argv[3] == "skim")
stats = llama.read(prompt, get_policy("fused"), Budget.parse("256"), n_predict=16, allow_overflow=True)
print(stats.cells_peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("way", ["skim", "one pass"])
def test_reading_takes_the_same_memory_for_any_length(tiny_model, way):
    """Four times as long, and the peak of the process stays within 10 MiB."""
    short, long = (run(READ, tiny_model(Spec(n_ctx=65536)), n, way).split() for n in (8000, 32000))
    assert short[0] == long[0] == "768"
    assert abs(int(long[1]) - int(short[1])) * 1024 < 10 * MIB


LIMITED = """
import resource, sys
sys.path.insert(0, "tests")
import psutil
from dapq_edge.budgets import Budget
from dapq_edge.errors import DapqError
from dapq_edge.reading import ReadingLlama
from dapq_edge.policies import get_policy
from dapq_edge import native
from test_reader import make_prompt

llama = ReadingLlama(sys.argv[1], n_threads=1)
llama.open_context(2**16)
prompt = make_prompt(2000)
llama.kv_cache.read(prompt.tokens[:1000])
before = llama.kv_cache.logits.copy()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
# the weights of the probe of so many cells do not fit
resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 24 * 2**20, hard))
with native.captured_log():
    try:
        get_policy("fused").evict(llama.kv_cache, 100)
        print("evicted", end=" ")
    except DapqError as error:
        print(error, end=" ")
    try:
        native.resize(llama._ctx.ctx, 2**20)
        print("resized")
    except DapqError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
# nothing was lost
assert llama.kv_cache.n_cells == 1000
llama.kv_cache.read(prompt.tokens[1000:1100])
get_policy("fused").evict(llama.kv_cache, 100)
assert llama.kv_cache.n_cells == 100
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS") or sys.platform != "linux", reason="needs a limit of memory")
def test_no_memory_in_the_middle(tiny_model):
    """The error says what to lower, and the process goes on."""
    text = run(LIMITED, tiny_model(Spec(n_ctx=65536)))
    assert "not enough memory" in text and "lower" in text and "evicted" not in text and "resized" not in text
