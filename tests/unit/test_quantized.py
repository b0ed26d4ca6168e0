"""Saved cells in half of the bytes."""

import struct

import numpy as np
import pytest

from dapq_edge.llamacpp.saved import f16_ranges
from dapq_edge.store.quantized import restore, shrink


def layer(row, numbers=None, cache_type=1):
    return struct.pack("<iQ", cache_type, row) + (b"" if numbers is None else numbers.astype(np.float16).tobytes())


def saved(rng, n_cells=5, n_layers=3, n_data=3, n_numbers=64, **options):
    """What llama.cpp writes of one memory, without its header, and the numbers in it."""
    meta = b"".join(struct.pack("<iIi", pos, 1, 0) for pos in range(n_cells))
    parts, every = [struct.pack("<II", 1, n_cells), meta, struct.pack("<II", 0, n_layers)], []
    for i in [*range(n_layers), *range(n_layers)]:
        numbers = rng.normal(size=n_cells * n_numbers) if i < n_data else None
        parts.append(layer(2 * n_numbers, numbers, **options))
        every += [] if numbers is None else [numbers]
    return b"".join(parts), np.concatenate(every)


def cells_of(*memories):
    return np.frombuffer(struct.pack("<Ii", 0x1234, 0) + b"".join(memories), dtype=np.uint8)


@pytest.mark.parametrize("n_data", [1, 2, 3])
def test_only_k_and_v_are_rounded(n_data):
    rng = np.random.default_rng(0)
    (one, first), (other, second) = saved(rng, n_data=n_data), saved(rng, n_cells=600, n_layers=1, n_data=1)
    cells = cells_of(one, other)
    back = restore(shrink(cells))
    ranges = f16_ranges(cells)
    assert len(ranges) == 2 * n_data + 2
    is_number = np.zeros(cells.size, dtype=bool)
    for part in ranges:
        is_number[part.start : part.stop] = True
    np.testing.assert_array_equal(back[~is_number], cells[~is_number])
    numbers = np.concatenate([first, second])
    assert is_number.sum() == 2 * numbers.size
    found = back[is_number].copy().view(np.float16).astype(float)
    # a block has 127 steps up to its largest number
    largest = np.abs(numbers).reshape(-1, 32).max(axis=1).repeat(32)
    assert (np.abs(found - numbers) <= largest / 127 * 0.51 + 2e-3).all()
    assert sum(array.nbytes for array in shrink(cells).values()) < 0.6 * cells.size


@pytest.mark.parametrize(
    "cells",
    [
        cells_of(saved(np.random.default_rng(0), cache_type=0)[0]),
        cells_of(saved(np.random.default_rng(0))[0] + b"more"),
        cells_of(saved(np.random.default_rng(0))[0][:-2]),
        cells_of(struct.pack("<II", 2, 5) + bytes(1000)),
        cells_of(struct.pack("<I", 1)),
        cells_of(np.random.default_rng(0).bytes(100_000)),
        cells_of(),
        np.empty(0, dtype=np.uint8),
    ],
    ids=["another type", "more", "less", "streams", "cut", "noise", "no memory", "nothing"],
)
def test_what_is_laid_out_in_another_way_stays_whole(cells):
    assert f16_ranges(cells) == []
    np.testing.assert_array_equal(restore(shrink(cells)), cells)


def test_a_memory_without_cells():
    one, _ = saved(np.random.default_rng(0))
    assert f16_ranges(cells_of(one, struct.pack("<II", 1, 0))) == f16_ranges(cells_of(one))
