"""What real models take, known from their headers."""

import pytest
from helpers.real import find
from helpers.shapes import open_context

from dapq_edge.llamacpp import native
from dapq_edge.planning.gguf_shape import read_shape


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alias", "n_per_cell", "n_words"), [("smollm2-135m", 23040, 98052), ("gemma3-270m", 3072, 262144)]
)
def test_real_models(alias, n_per_cell, n_words):
    path = find(alias)
    shape = read_shape(path)
    assert (shape.bytes_per_cell("f16", "f16"), shape.n_words) == (n_per_cell, n_words)
    with open_context(path, 2048, 512, "f16", "q8_0") as c:
        assert shape.kv_bytes(2048, "f16", "q8_0", 512) == native.memory_bytes(c.ctx)
