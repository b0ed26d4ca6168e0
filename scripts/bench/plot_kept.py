"""Draw which cells of a document each policy keeps, and what the model then answers: the picture of the README.

    .venv/bin/pip install matplotlib
    .venv/bin/python scripts/plot_kept.py --doc FILE --out kept.png

A needle is put into the document, so that the place of the answer is known.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from dapq_edge.llamacpp.log import captured_log
from dapq_edge.llamacpp import native
from dapq_edge.eviction.budget import parse_budget
from dapq_edge.cache.sequence import Keep
from dapq_edge.calibration.needles import Needle, needle_prompt, read_haystack
from dapq_edge.planning.weights import find_model
from dapq_edge.eviction.policies import ScoringPolicy, get_policy
from dapq_edge import open_model

COLORS = {"full": "#8a8f98", "streaming": "#c2703d", "dapq": "#8b5fa8", "fused": "#1f6f8b"}


NEEDLE = Needle(
    " The registered name of the ferry in the bay is Marlow Quinn. ",
    "What is the registered name of the ferry in the bay?",
    "The registered name of the ferry in the bay is",
    "Marlow Quinn",
)


def answer_cells(llama: Engine, tokens: list[int], answer: str) -> tuple[int, int]:
    """First and last cell of the first place where the answer stands in the prompt."""
    for end in range(1, len(tokens)):
        text = llama.detokenize(tokens[max(0, end - 16) : end]).decode("utf-8", "replace")
        if answer in text:
            return end - len(llama.tokenize(answer.encode(), add_bos=False)), end
    raise ValueError("the answer is not in the prompt")


def share_of_heads(keep: Keep, n_cells: int) -> np.ndarray:
    """For each cell, the share of the KV heads of all layers that keep it: [cells]."""
    heads = np.concatenate(keep)
    return np.bincount(heads.ravel(), minlength=n_cells) / len(heads)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--doc", type=Path, required=True)
    parser.add_argument("--length", type=int, default=2048, help="tokens of the prompt")
    parser.add_argument("--depth", type=float, default=0.3, help="where the needle is, 0 to 1")
    parser.add_argument("--budget", default="3%")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    llama = open_model(find_model("smollm2-135m"), n_threads=2)
    prompt = needle_prompt(llama, [NEEDLE], read_haystack([args.doc]), args.length, [args.depth])
    n_prompt, n_keep = len(prompt), parse_budget(args.budget).cells(len(prompt))
    first, last = answer_cells(llama, prompt.tokens, NEEDLE.answer)
    llama.read(prompt, get_policy("full"), parse_budget("100%"))
    snapshot = Snapshot(llama)

    figure, axes = plt.subplots(len(COLORS), 1, figsize=(10, 4.2), sharex=True)
    for axis, (name, color) in zip(axes, COLORS.items(), strict=True):
        snapshot.restore()
        policy, kept = get_policy(name), np.ones(n_prompt)
        if isinstance(policy, ScoringPolicy):
            kept = share_of_heads(policy.keep(llama.kv_cache, n_keep), n_prompt)
        policy.evict(llama.kv_cache, n_keep)
        mib = llama.kv_cache.n_bytes / 2**20
        answer = "".join(llama.stream(12)).split("\n")[0].strip()
        axis.fill_between(np.arange(n_prompt), kept, step="mid", color=color, linewidth=0)
        axis.plot([(first + last) / 2], [1.15], "v", color="#b3202c", markersize=7, clip_on=False)
        axis.set(ylim=(0, 1), yticks=[], xlim=(0, n_prompt))
        axis.set_title(f"{name}, {mib:.0f} MiB", loc="left", fontsize=10, fontweight="bold", color=color)
        axis.set_title(f"“… is {answer}”", loc="right", fontsize=9, family="monospace")
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[-1].set_xlabel(
        f"position in the prompt ({n_prompt:,} tokens); height: share of the heads that keep it; ▼: the answer"
    )
    figure.suptitle(f"“{NEEDLE.question}”", fontsize=11, x=0.01, ha="left")
    figure.tight_layout()
    figure.savefig(args.out, dpi=150)
    return 0


if __name__ == "__main__":
    with captured_log():
        sys.exit(main())
