"""The support table of the README: tiny random models of each family, and the real ones of the registry.

.venv/bin/python scripts/support.py

Each family runs in a process of its own, so that llama.cpp may give up on one of them.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.progress import track

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import llama_cpp  # noqa: E402
from checks import eviction_error, is_unchanged, probe_error, read_in_few_cells  # noqa: E402
from families import FAMILIES, REFUSED, Family, write_family  # noqa: E402
from llama_cpp._logger import set_verbose  # noqa: E402
from tiny import N_VOCAB  # noqa: E402

from dapq_edge import Llama  # noqa: E402
from dapq_edge.errors import UnsupportedModelError  # noqa: E402
from dapq_edge.planning.weights import find_model  # noqa: E402

# models of the registry with real text, and their full-attention layers
REAL = {
    "smollm2-135m": Family("llama", full_layers=tuple(range(30)), scale=64**-0.5),
    "gemma3-270m": Family("gemma3", full_layers=(5, 11, 17), scale=1.0),
}
TEXT = ROOT / "CONTRIBUTING.md"

HEADINGS = ("family", "loads", "probe against numpy", "per-head eviction", "reading", "unchanged within the budget")


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(row_of(sys.argv[1])))
        return
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for name in track([*FAMILIES, *REAL], disable=not sys.stderr.isatty()):
        command = [sys.executable, __file__, name]
        result = subprocess.run(command, capture_output=True, text=True)
        cells = json.loads(result.stdout) if result.returncode == 0 else [last_line(result.stderr)]
        print(f"| {' | '.join([name, *cells])} |", flush=True)


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def row_of(name: str) -> list[str]:
    set_verbose(False)
    if name in REAL:
        path, tokens = find_model(name), real_tokens(find_model(name))
        return supported(path, REAL[name], tokens)
    with tempfile.TemporaryDirectory() as folder:
        path = write_family(name, Path(folder) / "model.gguf")
        tokens = np.random.default_rng(1).integers(3, N_VOCAB, 1500).tolist()
        return refused(path, name, tokens) if name in REFUSED else supported(path, FAMILIES[name], tokens)


def real_tokens(path: Path) -> list[int]:
    vocab = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokens = vocab.tokenize(TEXT.read_bytes())
    vocab.close()
    return (tokens * (1500 // len(tokens) + 1))[:1500]


def supported(path: Path, family: Family, tokens: list[int]) -> list[str]:
    probe = probe_error(path, family, tokens[:75], tokens[100:111], flash_attn=False)
    evicted = eviction_error(path, tokens[:75], tokens[100:111])
    n_tokens, usage = read_in_few_cells(path, tokens, 64)
    reading = f"1,500 tokens in {usage.n_cells} cells, 64 kept" if n_tokens == 8 and usage.n_cells_used <= 72 else "no"
    unchanged = "to the bit" if is_unchanged(path, tokens[:300], 400) else "no"
    return ["yes", f"{probe:.1e}", f"{evicted:.1e}", reading, unchanged]


def refused(path: Path, name: str, tokens: list[int]) -> list[str]:
    family, probe = FAMILIES[name], "no"
    if family.full_layers:
        probe = f"{probe_error(path, family, tokens[:75], tokens[100:111], flash_attn=False):.1e}"
    try:
        Llama(path, kv_budget=64, n_ctx=512, verbose=False).close()
        reason = "not refused"
    except UnsupportedModelError as error:
        reason = str(error).partition(": ")[2].removesuffix(": use --policy full")
    return ["yes", probe, f"refused: {reason}", "", "to the bit" if is_unchanged(path, tokens[:300], "auto") else "no"]


if __name__ == "__main__":
    main()
