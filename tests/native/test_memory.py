"""Memory of the process: what is given back, and that nothing is there twice."""

import psutil
import pytest
from helpers.context import Context
from helpers.gathered import keep_last
from helpers.processes import run
from helpers.tiny import Spec
from helpers.tokens import PROMPT

from dapq_edge.llamacpp import native
from dapq_edge.planning.ram import MIB

N_CELLS = 2**16


def rss() -> int:
    return psutil.Process().memory_info().rss


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
from pathlib import Path
from dapq_edge.llamacpp import native
from helpers.context import Context
from helpers.gathered import keep_last
from helpers.tokens import PROMPT
from llama_cpp._logger import set_verbose

set_verbose(False)
with Context(Path(sys.argv[1]), n_ctx=2**16) as c:
    c.decode(PROMPT, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    keep_last(c, 20)
    native.resize(c.ctx, 256)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_no_second_buffer(tiny_model):
    """There is never one of the old size beside the new one."""
    assert int(run(PEAK, tiny_model(Spec()))) * 1024 < 5 * MIB
