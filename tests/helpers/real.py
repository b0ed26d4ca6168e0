"""Real models and texts: what they need is not on every machine."""

import os
from pathlib import Path

import pytest

from dapq_edge.errors import DapqError
from dapq_edge.planning.weights import find_model

from .paths import ROOT

SHARED = ROOT.parent / "shared" / "data" / "niah"
LLAMA_CPP = next(ROOT.glob(".build/llama_cpp_python-*/vendor/llama.cpp"), None)

needs_build = pytest.mark.skipif(not LLAMA_CPP, reason="no .build: the documents come with scripts/setup.sh")
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no ../shared: the evaluation data is not in the project")


def find(alias: str) -> Path:
    """The file of a model; skips the test where it cannot be downloaded, but not in CI."""
    try:
        return find_model(alias)
    except DapqError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
