"""The choice of a budget for a model and a memory."""

import pytest
from helpers.shapes import SPECS
from helpers.tiny import Spec

from dapq_edge.errors import DapqError
from dapq_edge.planning.gguf_shape import read_shape
from dapq_edge.planning.planner import Choice, choose, most_cells

MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize("name", ["GQA", "windows"])
def test_most_cells(tiny_model, name):
    shape, options = read_shape(tiny_model(SPECS[name])), ("f16", "q8_0", 512)
    found = []
    for ram in (90 * MIB, 100 * MIB, 100 * MIB + 1000, 200 * MIB, GIB, 4 * GIB):
        n_cells = most_cells(shape, ram, *options)
        assert n_cells % 256 == 0
        assert shape.total_bytes(n_cells, *options) <= 0.9 * ram < shape.total_bytes(n_cells + 256, *options)
        found.append(n_cells)
    assert found == sorted(found)
    assert found[0] < found[-1]
    assert most_cells(shape, GIB, "q4_0", "q4_0", 512) > most_cells(shape, GIB, "f16", "f16", 512)
    assert most_cells(shape, GIB, "f16", "f16", 64) > most_cells(shape, GIB, "f16", "f16", 512)
    needed = shape.total_bytes(256, *options)
    assert most_cells(shape, int(needed / 0.9) + 2, *options) == 256
    with pytest.raises(
        DapqError, match=rf"256 cells need {needed / MIB:.0f} MiB, and there are 45 MiB \(90% of 50 MiB\)"
    ):
        most_cells(shape, 50 * MIB, *options)


def test_choose(tiny_model):
    shape, options = read_shape(tiny_model(Spec())), ("f16", "f16", 512)

    def ram_for(n_cells: int) -> int:
        return int(shape.total_bytes(n_cells, *options) / 0.9) + 2

    assert choose(shape, ram_for(4096), 4000, *options) == Choice(4000, 1024, is_full=True)
    assert choose(shape, ram_for(4096), 4097, *options) == Choice(4096 - 512, 1024, is_full=False)
    assert choose(shape, ram_for(4096), 16000, *options) == Choice(3584, 2000, is_full=False)
    assert choose(shape, ram_for(4096), 64000, *options) == Choice(3584, 3584, is_full=False)
    assert choose(shape, ram_for(1024), 64000, *options) == Choice(512, 512, is_full=False)
    # what is read at once needs no chunk beside it
    assert choose(shape, ram_for(256), 200, *options) == Choice(200, 200, is_full=True)
    assert choose(shape, ram_for(768), 800, *options) == Choice(256, 256, is_full=False)
    with pytest.raises(DapqError, match="768 cells need"):
        choose(shape, ram_for(512), 800, *options)
