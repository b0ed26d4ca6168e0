"""The handshake with the patch."""

import subprocess
import sys

import pytest
from helpers.paths import ROOT

from dapq_edge import PATCH_VERSION
from dapq_edge.errors import StockBuildError
from dapq_edge.llamacpp import native


def test_handshake():
    assert native.patch_version() == PATCH_VERSION
    native.require()


@pytest.fixture
def uncached(monkeypatch):
    native._function.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    native._function.cache_clear()


def test_stock_build_says_how_to_build(uncached):
    uncached.setattr(native.compat, "lib", object())
    assert native.patch_version() is None
    with pytest.raises(StockBuildError, match=r"is a stock build: run \./scripts/setup\.sh") as caught:
        native.require()
    assert "\n" not in str(caught.value)


def test_other_patch_version(uncached):
    uncached.setattr(native, "patch_version", lambda: PATCH_VERSION + 1)
    with pytest.raises(StockBuildError, match=f"patch version {PATCH_VERSION + 1}, not {PATCH_VERSION}"):
        native.require()


def test_import_loads_no_model_code():
    """`import dapq_edge` works whatever llama-cpp-python is installed."""
    code = "import sys, dapq_edge; assert 'llama_cpp' not in sys.modules; print(dapq_edge.__version__)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
