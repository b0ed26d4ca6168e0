"""Real models, loaded once."""

import pytest
from helpers.real import find

from dapq_edge import open_model


@pytest.fixture(scope="session")
def engine():
    """SmolLM2 135M."""
    engine = open_model(find("smollm2-135m"), n_threads=2)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def gemma():
    """Gemma 3 270M, a base model with sliding windows."""
    engine = open_model(find("gemma3-270m"), n_threads=2)
    yield engine
    engine.close()
