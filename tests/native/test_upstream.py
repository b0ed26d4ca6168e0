"""llama-cpp-python's own tests pass on the patched build, as far as they need no network."""

import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

SDIST = next(ROOT.glob(".build/llama_cpp_python-*/tests"), None)

# these download models from Hugging Face
NEEDS_NETWORK = ["real", "prompt_cache", "matches_fresh"]


@pytest.mark.slow
@pytest.mark.skipif(SDIST is None, reason="no .build: the sdist is not there unless scripts/setup.sh built it")
def test_llama_cpp_python():
    result = subprocess.run(
        # isolated: the unpacked sdist must not hide the package that is installed
        [
            sys.executable,
            "-I",
            "-m",
            "pytest",
            "-q",
            "-k",
            " and ".join(f"not {word}" for word in NEEDS_NETWORK),
            SDIST,
        ],
        cwd=SDIST.parent,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    assert "8 passed" in result.stdout
