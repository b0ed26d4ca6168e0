"""Draw which cells of a document each policy keeps, and what the model then answers: the picture of the README.

.venv/bin/pip install matplotlib
.venv/bin/python scripts/plot_kept.py --doc FILE --fact TEXT --answer-prefix TEXT --out kept.png QUESTION
"""

import argparse
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from dapq_edge import native
from dapq_edge.budgets import Budget
from dapq_edge.documents import read_document
from dapq_edge.evaluation.snapshot import Snapshot
from dapq_edge.llama import Llama
from dapq_edge.models import find_model
from dapq_edge.policies import get_policy

COLORS = {"full": "#8a8f98", "streaming": "#c2703d", "dapq": "#1f6f8b"}


def fact_cells(llama: Llama, tokens: list[int], fact: str) -> list[int]:
    """The cells at which the fact ends in the prompt."""
    text, cells = "", []
    for cell, token in enumerate(tokens):
        text = (text + llama.detokenize([token]).decode("utf-8", "replace"))[-len(fact) - 16 :]
        if fact in text:
            cells.append(cell)
            text = ""
    return cells


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--doc", required=True)
    parser.add_argument("--fact", required=True, help="text that the answer needs")
    parser.add_argument("--answer-prefix", default="")
    parser.add_argument("--budget", default="50%")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    llama = Llama(find_model("smollm2-135m"), n_threads=2)
    tokens = llama.chat_tokens(f"{read_document(args.doc)}\n\n{args.question}", args.answer_prefix)
    llama.open_context(len(tokens) + 64)
    stats = llama.read(tokens, get_policy("full"), Budget.parse("100%"))
    snapshot, facts = Snapshot(llama), fact_cells(llama, tokens, args.fact)

    figure, axes = plt.subplots(len(COLORS), 1, figsize=(10, 3.4), sharex=True)
    for axis, (name, color) in zip(axes, COLORS.items(), strict=True):
        snapshot.restore()
        get_policy(name).evict(llama.kv_cache, Budget.parse(args.budget))
        kept = np.zeros(len(tokens))
        kept[llama.kv_cache.positions] = 1
        mib = llama.kv_cache.n_bytes / 2**20
        answer = "".join(llama.stream(8)).split("\n")[0].strip()
        axis.fill_between(np.arange(len(tokens)), kept, step="mid", color=color, linewidth=0)
        axis.plot(facts, [1.12] * len(facts), "v", color="#b3202c", markersize=5, clip_on=False)
        axis.set(ylim=(0, 1), yticks=[], xlim=(0, len(tokens)))
        axis.set_title(f"{name}: {mib:.0f} MiB", loc="left", fontsize=10, fontweight="bold", color=color)
        axis.set_title(f"“{args.answer_prefix} {answer} …”", loc="right", fontsize=9, family="monospace")
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[-1].set_xlabel(
        f"position in the prompt ({stats.cells_read:,} tokens); filled: cells that are kept; ▼: the fact asked for"
    )
    figure.suptitle(f"“{args.question}”", fontsize=11, x=0.01, ha="left")
    figure.tight_layout()
    figure.savefig(args.out, dpi=150)
    return 0


if __name__ == "__main__":
    with native.captured_log():
        sys.exit(main())
