"""Speed of a wheel against the build of .venv, in turn in one run: medians, and the ratio of the speeds.

.venv/bin/python scripts/bench/wheel.py dist/*.whl
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rounds import N_DECODE, N_PREFILL, N_PROBE

PARTS = {
    "prefill": f"prefill of {N_PREFILL} tokens",
    "probe": f"probe of {N_PROBE} tokens",
    "decode": f"{N_DECODE} tokens, one by one",
}


class Process:
    """rounds.py with the llama_cpp of a folder, or with the one that is installed."""

    def __init__(self, args: argparse.Namespace, folder: str = "") -> None:
        path = os.pathsep.join(part for part in (folder, os.environ.get("PYTHONPATH", "")) if part)
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "rounds.py", args.model, str(args.threads)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.library = self.line().strip()

    def line(self) -> str:
        return self.process.stdout.readline()

    def round(self) -> dict[str, float]:
        print(file=self.process.stdin, flush=True)
        return json.loads(self.line())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(args.wheel).extractall(folder)
        native, wheel = Process(args), Process(args, folder)
        # the first round warms up
        pairs = [(native.round(), wheel.round()) for _ in range(1 + args.rounds)][1:]
        for each in (native, wheel):
            each.process.stdin.close()
            each.process.wait()

    table = Table(title=f"{native.library} and {wheel.library}, medians of {args.rounds} rounds")
    for heading in ("", "built here, s", "wheel, s", "speed of the wheel"):
        table.add_column(heading, justify="right" if heading else "left")
    for part, words in PARTS.items():
        here, there = (statistics.median(pair[i][part] for pair in pairs) for i in range(2))
        table.add_row(words, f"{here:.3f}", f"{there:.3f}", f"{here / there:.2f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
