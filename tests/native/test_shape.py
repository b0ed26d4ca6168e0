"""What a model takes, known from its header, against what llama.cpp allocates."""

import sys

import pytest
from helpers.processes import run
from helpers.shapes import SPECS, open_context

from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.llamacpp import native
from dapq_edge.planning.gguf_shape import read_shape
from dapq_edge.planning.model_shape import Layer


@pytest.mark.parametrize("types", [("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"), ("f16", "q5_0")])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_kv_bytes_are_those_of_llama_cpp(tiny_model, spec, types):
    path = tiny_model(spec)
    shape = read_shape(path)
    assert (shape.architecture, shape.n_ctx_train, shape.n_head) == (spec.arch, 512, spec.n_head)
    assert [not layer.window for layer in shape.layers] == [not spec.has_window(il) for il in range(spec.n_layer)]
    for n_cells, n_batch in ((256, 512), (768, 64), (768, 512), (1536, 300)):
        with open_context(path, n_cells, n_batch, *types) as c:
            allocated = native.memory_bytes(c.ctx)
            assert shape.kv_bytes(n_cells, *types, n_batch) == allocated
            assert shape.kv_bytes(n_cells - 255, *types, n_batch) == allocated
            assert allocated - shape.window_bytes(*types, n_batch) <= n_cells * shape.bytes_per_cell(*types)


@pytest.mark.parametrize("types", [("f16", "f16"), ("q8_0", "q4_0")])
@pytest.mark.parametrize("name", ["MHA", "GQA", "MQA", "head 32"])
def test_bytes_of_a_cell(tiny_model, name, types):
    path = tiny_model(SPECS[name])
    with open_context(path, 512, 512, *types) as c:
        cache = KVCache(c.ctx)
        cache.read(range(10, 110))
        # and of each cell its position and its sequence
        assert 0 < cache.n_bytes - 100 * (read_shape(path).bytes_per_cell(*types) + 12) < 250


def test_recurrent_model(recurrent_model):
    """It has no cells, and a state for each of two sequences."""
    shape = read_shape(recurrent_model)
    assert shape.layers == (Layer(0, 64, 64),)
    assert shape.bytes_per_cell("f16", "f16") == 0
    with open_context(recurrent_model, 512, 512, "f16", "f16") as c:
        assert shape.kv_bytes(512, "f16", "f16", 512) == native.memory_bytes(c.ctx) == 2 * 4 * (128 * 8 + 3 * 128)


PEAK = """
import sys
from pathlib import Path
import dapq_edge.llama
from helpers.context import Context
from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.eviction.policies import get_policy
from llama_cpp._logger import set_verbose

set_verbose(False)
with Context(Path(sys.argv[1]), n_ctx=int(sys.argv[2]), n_ubatch=512, n_seq_max=2, kv_unified=True) as c:
    cache = KVCache(c.ctx)
    n_cells = int(sys.argv[2]) - 512
    for start in range(0, n_cells, 512):
        cache.read([10 + i % 200 for i in range(start, start + 512)])
    get_policy("fused").evict(cache, n_cells // 2)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(("name", "n_cells"), [("GQA", 1024), ("GQA", 8192), ("windows", 2048)])
def test_total_is_what_a_process_takes(tiny_model, name, n_cells):
    """Not too low, and at most 1.5 times as much."""
    path = tiny_model(SPECS[name])
    taken = int(run(PEAK, path, n_cells)) * 1024
    assert taken <= read_shape(path).total_bytes(n_cells, "f16", "f16", 512) <= 1.5 * taken
