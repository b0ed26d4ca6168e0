"""Python in a process of its own, where the package and the helpers can be imported."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

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


def run(script: str, *args: object) -> str:
    """What the script prints."""
    command = [sys.executable, "-c", script, *map(str, args)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()
