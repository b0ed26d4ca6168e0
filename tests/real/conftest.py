"""Real models, loaded once."""

import pytest
from helpers.real import find

from dapq_edge.reading import ReadingLlama


@pytest.fixture(scope="session")
def llama():
    """SmolLM2 135M."""
    llama = ReadingLlama(find("smollm2-135m"), n_threads=2)
    yield llama
    llama.close()


@pytest.fixture(scope="session")
def gemma():
    """Gemma 3 270M, a base model with sliding windows."""
    llama = ReadingLlama(find("gemma3-270m"), n_threads=2)
    yield llama
    llama.close()
