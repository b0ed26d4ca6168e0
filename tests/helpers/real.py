"""Real models and texts: what they need is not on every machine."""

import os

import pytest

from dapq_edge.errors import DapqError
from dapq_edge.models import find_model
from dapq_edge.reading import ReadingLlama

from .paths import ROOT

SHARED = ROOT.parent / "shared" / "data" / "niah"
LLAMA_CPP = next(ROOT.glob(".build/llama_cpp_python-*/vendor/llama.cpp"), None)
needs_build = pytest.mark.skipif(not LLAMA_CPP, reason="no .build: the documents come with scripts/setup.sh")
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no ../shared: the evaluation data is not in the project")


def load(alias: str) -> ReadingLlama:
    try:
        path = find_model(alias)
    except DapqError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return ReadingLlama(path, n_threads=2)
