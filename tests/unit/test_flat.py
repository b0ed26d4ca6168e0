"""Relevances of a document where a place stands out, and where none does."""

import pytest

from dapq_edge.reading.choice import Chunk
from dapq_edge.reading.flat import is_flat


def chunks(*relevances):
    return [Chunk(i, i + 1, relevance) for i, relevance in enumerate(relevances)]


@pytest.mark.parametrize(
    ("relevances", "expected"),
    [
        ((0.01, 0.9, 0.02, 0.05), False),
        ((0.9, 0.4, 0.3, 0.01), False),
        ((0.9, 0.5, 0.5), True),
        ((0.3,) * 20, True),
        # nothing is found anywhere
        ((0.0,) * 5, True),
        # little in each of many chunks is not much
        ((0.9, *[0.01] * 500), False),
        ((0.05, *[0.01] * 500), True),
        ((0.5,), False),
    ],
)
def test_flat(relevances, expected):
    assert is_flat(chunks(*relevances)) is expected
