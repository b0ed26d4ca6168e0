"""The handshake with the patch, and the series itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dapq_edge import PATCH_VERSION, native
from dapq_edge.errors import StockBuildError

ROOT = Path(__file__).parents[1]
PATCHES = sorted((ROOT / "patches").glob("*.patch"))


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
    uncached.setattr(native, "_llama", object())
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


def test_series_is_numbered_and_described():
    assert [path.name[:4] for path in PATCHES] == [f"{i:04d}" for i in range(1, len(PATCHES) + 1)]
    readme = (ROOT / "patches" / "README.md").read_text()
    for path in PATCHES:
        assert path.name in readme
        assert re.search(r"^Subject: \[PATCH \d+/\d+\] \S.* : ", path.read_text(), re.M), path.name
        added = [line for line in path.read_text().splitlines() if line.startswith("+") and not line.startswith("+++")]
        assert not [line for line in added if line != line.rstrip()], f"{path.name} adds trailing white space"


def test_versions_agree():
    assert f"return {PATCH_VERSION};" in PATCHES[-1].read_text()
