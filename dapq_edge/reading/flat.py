"""Flat relevance: a question that finds about as much in many places of a document has its answer in none of them."""

from collections.abc import Sequence

from .choice import MIN_FOUND, Chunk

# chunks beside the best one that are compared with it; not all of them, as little of many would be much in a long text
N_OTHERS = 7


def is_flat(chunks: Sequence[Chunk]) -> bool:
    """Return whether no chunk is clearly relevant, or none more than the next `N_OTHERS` ones together.

    Where an answer stands in one place, its chunk is; see docs/results.md, "The whole document".

    Args:
        chunks: Of a document, all of which was looked at.
    """
    best, *others = sorted((chunk.relevance for chunk in chunks), reverse=True)
    return best < MIN_FOUND or best <= sum(others[:N_OTHERS])
