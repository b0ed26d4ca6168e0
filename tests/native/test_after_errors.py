"""What an error leaves behind: nothing that answers wrongly, and nothing that aborts later."""

import resource
import sys

import llama_cpp
import psutil
import pytest
from helpers.context import Context
from helpers.device import COUNTER
from helpers.gathered import WINDOW_SPEC, random_keep, remove
from helpers.limits import limited
from helpers.processes import preloaded, run_job
from helpers.tiny import Spec
from helpers.tokens import N_PROMPT, PROBE, PROMPT

from dapq_edge.errors import DapqError
from dapq_edge.llamacpp import native
from dapq_edge.llamacpp.rpc import has_rpc

HYBRIDS = ("lfm2", "qwen3next")

needs_rpc = pytest.mark.skipif(not has_rpc(), reason="llama.cpp was built without RPC")


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """The environment with the library that lets allocations fail."""
    return {COUNTER: str(preloaded("fail.cpp", "c++", tmp_path_factory.mktemp("faults")))}


def path_of(model, tiny_model, family_model):
    specs = {"llama": Spec(), "windows": WINDOW_SPEC}
    return tiny_model(specs[model]) if model in specs else family_model(model)


CALLS = [
    *(("gather", "even"), ("copy", ""), ("probe", ""), ("resize", "up"), ("resize", "down")),
    *(("values", "get"), ("values", "set")),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "what", "kind"),
    [("llama", "gather", "uneven"), *((model, *call) for model in ("llama", "windows", "lfm2") for call in CALLS)],
)
def test_each_allocation_can_fail(tiny_model, family_model, faults, model, what, kind):
    run_job("failing_job", "allocation", path_of(model, tiny_model, family_model), what, kind, **faults)


@needs_rpc
@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "windows", *HYBRIDS])
def test_a_device_fails_while_rows_move(tiny_model, family_model, faults, model):
    run_job("failing_job", "computation", path_of(model, tiny_model, family_model), "", "", **faults)


@needs_rpc
@pytest.mark.slow
@pytest.mark.parametrize(("head_dim", "kind"), [(32, "q8_0"), (32, "q4_0"), (96, "q8_0"), (160, "q4_0")])
def test_rows_of_odd_bytes_go_to_the_host_once(tiny_model, faults, head_dim, kind):
    run_job("failing_job", "transfers", tiny_model(Spec(head_dim=head_dim)), kind, kind, **faults)


@pytest.mark.slow
def test_a_failed_reserve_is_tried_again(tiny_model, faults):
    run_job("failing_job", "buffers", tiny_model(Spec()), "", "", **faults)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
def test_a_resize_without_memory_for_the_graph(tiny_model):
    """The cells were there already; they are given back, and everything is as it was."""
    with Context(tiny_model(Spec()), n_ctx=2**15, flash_attn=False) as c:
        assert c.decode(PROMPT, 0) == 0
        before, size = c.state(), native.memory_bytes(c.ctx)
        with limited(resource.RLIMIT_AS, psutil.Process().memory_info().vms + 2 * size + (64 << 20)):
            with pytest.raises(DapqError, match="not enough memory"):
                native.resize(c.ctx, 2**16)
            assert (c.state(), native.n_cells(c.ctx), native.memory_bytes(c.ctx)) == (before, 2**15, size)
            assert c.decode(PROBE, N_PROMPT) == 0
        native.resize(c.ctx, 2**16)
        assert c.decode(PROBE, N_PROMPT + len(PROBE)) == 0


@pytest.mark.parametrize("name", [*HYBRIDS, "qwen35, text", "gemma2"])
def test_refusals_of_a_gathered_sequence_change_nothing(family_model, name):
    """In no layer: neither in those with a window nor in recurrent ones."""
    with Context(family_model(name), n_seq_max=3, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, 20))
        assert c.decode(PROBE, N_PROMPT) == 0
        before = c.state(0), c.state(1)
        for first, last in ((20, -1), (N_PROMPT - 1, N_PROMPT + 3), (0, 50), (-1, N_PROMPT - 1)):
            assert not remove(c, 0, first, last)
            llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, first, last)
        for first, last in ((20, -1), (0, 50), (-1, -1)):
            llama_cpp.llama_memory_seq_add(c.memory, 0, first, last, 10)
            llama_cpp.llama_memory_seq_div(c.memory, 0, first, last, 2)
        assert (c.state(0), c.state(1)) == before
        assert c.decode(PROBE, N_PROMPT + len(PROBE)) == 0


def test_a_refused_gather_leaves_the_graph(tiny_model):
    """The next token is decoded with the graph of the one before."""
    with Context(tiny_model(Spec())) as c:
        assert c.decode(PROMPT, 0) == 0

        def n_reused(pos: int) -> int:
            before = llama_cpp.llama_perf_context(c.ctx).n_reused
            assert c.decode(PROBE[:1], pos) == 0
            return llama_cpp.llama_perf_context(c.ctx).n_reused - before

        n_reused(N_PROMPT)
        assert n_reused(N_PROMPT + 1) == 1
        with pytest.raises(DapqError):
            native.seq_gather(c.ctx, 0, 0, [k[:, ::-1] for k in random_keep(c, 20)])
        assert n_reused(N_PROMPT + 2) == 1
        # on the host, a gather needs no graph
        native.seq_gather(c.ctx, 0, 0, random_keep(c, 20))
        assert n_reused(N_PROMPT + 3) == 1
