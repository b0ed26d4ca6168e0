"""Flat relevance: a question that finds something in many places of a document, and stands out in none."""

from collections.abc import Sequence

from .choice import Chunk


def is_flat(chunks: Sequence[Chunk]) -> bool:
    """TODO"""
    return True
