"""Python in a process of its own, where the package and the helpers can be imported."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .paths import ROOT, TESTS


def environment(**env: str) -> dict[str, str]:
    """The variables of this process, and where the package and `helpers` are."""
    paths = [str(ROOT), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **env}


def until(holds: Callable[[], Any], process: subprocess.Popen, seconds: float = 300) -> Any:
    """Wait until something holds of a process that runs, and return it."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert process.poll() is None, f"the process ended with {process.poll()}"
        assert time.monotonic() < end, f"nothing came for {seconds} s"
        time.sleep(0.01)
    return found


def run_job(module: str, *arguments: object, **env: str) -> None:
    """Run a module of `helpers` that prints "same" in the end; skips the test if it says so."""
    command = [sys.executable, "-m", f"helpers.{module}", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(**env))
    if result.stderr.startswith("skipped: "):
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.endswith("same\n"), result.stderr[-2000:]
    print(result.stdout)


def preloaded(source: str, compiler: str, folder: Path) -> Path:
    """Compile a source of `helpers` to a library for LD_PRELOAD; skips the test where that is not possible."""
    path, program = folder / f"{source}.so", shutil.which(compiler)
    if not program or not sys.platform.startswith("linux"):
        pytest.skip(f"nothing to preload: no C compiler ({compiler}), or not Linux")
    subprocess.run([program, "-shared", "-fPIC", "-o", path, TESTS / "helpers" / source, "-ldl"], check=True)
    return path


def run(script: str, *args: object) -> str:
    """What the script prints."""
    command = [sys.executable, "-c", script, *map(str, args)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()
