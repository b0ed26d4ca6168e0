"""The table of docs/models.md: tiny random models of each family, and the real ones of the package index.

.venv/bin/python scripts/support.py --write

Each family runs in a process of its own, so that llama.cpp may give up on one of them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from rich.progress import track

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import llama_cpp  # noqa: E402
from helpers.checks import eviction_error, is_unchanged, probe_error, read_in_few_cells  # noqa: E402
from helpers.families import FAMILIES, REFUSED, Family, write_family  # noqa: E402
from helpers.tokens import random_tokens  # noqa: E402

from dapq_edge import Llama, UnsupportedModelError, find_model  # noqa: E402
from dapq_edge.llamacpp.log import captured_log  # noqa: E402

# models of the package index with real text, and their full-attention layers
REAL = {
    "smollm2-135m": Family("llama", full_layers=tuple(range(30)), scale=64**-0.5),
    "gemma3-270m": Family("gemma3", full_layers=(5, 11, 17), scale=1.0),
}
# unlike the README, it stays as it is, and the figures with it
TEXT, N_TOKENS = ROOT / "dapq_edge" / "calibration" / "texts" / "harbour.txt", 1500

HEADINGS = ("family", "loads", "probe against numpy", "per-head eviction", "reading", "unchanged within the budget")

PAGE = ROOT / "docs" / "models.md"
START, END = "<!-- support:start -->\n", "<!-- support:end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument("family", nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.family:
        with captured_log():
            print(json.dumps(row_of(args.family)))
        return
    lines = [line_of(HEADINGS), "|" + "---|" * len(HEADINGS)]
    print(*lines, sep="\n")
    for name in track([*FAMILIES, *REAL], disable=not sys.stderr.isatty()):
        lines.append(line_of([name, *measured(name)]))
        print(lines[-1], flush=True)
    if args.write:
        write(lines)


def line_of(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def measured(name: str) -> list[str]:
    """Return the cells of a family, or the last line of its process."""
    result = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True)
    return json.loads(result.stdout) if result.returncode == 0 else [result.stderr.strip().rpartition("\n")[2]]


def write(lines: Sequence[str]) -> None:
    """Put the table between the marks of the page."""
    text = PAGE.read_text()
    start, stop = text.index(START) + len(START), text.index(END)
    PAGE.write_text(text[:start] + "".join(f"{line}\n" for line in lines) + text[stop:])


def row_of(name: str) -> list[str]:
    if name in REAL:
        path = find_model(name)
        return supported(path, REAL[name], real_tokens(path))
    with tempfile.TemporaryDirectory() as folder:
        path, tokens = write_family(name, Path(folder) / "model.gguf"), random_tokens(N_TOKENS, 1)
        return refused(path, name, tokens) if name in REFUSED else supported(path, FAMILIES[name], tokens)


def real_tokens(path: Path) -> list[int]:
    vocab = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokens = list(islice(cycle(vocab.tokenize(TEXT.read_bytes())), N_TOKENS))
    vocab.close()
    return tokens


def supported(path: Path, family: Family, tokens: list[int]) -> list[str]:
    probe = probe_error(path, family, tokens[:75], tokens[100:111], flash_attn=False)
    evicted = eviction_error(path, tokens[:75], tokens[100:111])
    n_answer, usage = read_in_few_cells(path, tokens, 64)
    is_read = n_answer == 8 and usage.n_cells_used <= 72
    reading = f"{N_TOKENS:,} tokens in {usage.n_cells} cells, 64 kept" if is_read else "no"
    return ["yes", f"{probe:.1e}", f"{evicted:.1e}", reading, unchanged(path, tokens, 400)]


def refused(path: Path, name: str, tokens: list[int]) -> list[str]:
    family, probe = FAMILIES[name], "no"
    if family.full_layers:
        probe = f"{probe_error(path, family, tokens[:75], tokens[100:111], flash_attn=False):.1e}"
    try:
        Llama(path, kv_budget=64, n_ctx=512, verbose=False).close()
        reason = "not refused"
    except UnsupportedModelError as error:
        # between the file and the remedy
        _, reason, _ = str(error).split(": ")
    return ["yes", probe, f"refused: {reason}", "", unchanged(path, tokens, "auto")]


def unchanged(path: Path, tokens: list[int], kv_budget: str | int) -> str:
    return "to the bit" if is_unchanged(path, tokens[:300], kv_budget) else "no"


if __name__ == "__main__":
    main()
