"""Draw which cells of a document each policy keeps, and what the model then answers: the picture of the README.

    .venv/bin/pip install matplotlib
    .venv/bin/python scripts/bench/plot_kept.py --doc FILE --out kept.png

A needle is put into the document, so that the place of the answer is known.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from dapq_edge import Full, Share, find_model, get_policy, open_model
from dapq_edge.calibration.needles import Needle, find_span, needle_prompt, read_haystack
from dapq_edge.eviction.budget import parse_budget
from dapq_edge.llamacpp.log import captured_log

COLORS = {"full": "#8a8f98", "streaming": "#c2703d", "dapq": "#8b5fa8", "fused": "#1f6f8b"}

NEEDLE = Needle(
    " The registered name of the ferry in the bay is Marlow Quinn. ",
    "What is the registered name of the ferry in the bay?",
    "The registered name of the ferry in the bay is",
    "Marlow Quinn",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--doc", type=Path, required=True)
    parser.add_argument("--length", type=int, default=2048, help="tokens of the prompt")
    parser.add_argument("--depth", type=float, default=0.3, help="where the needle is, 0 to 1")
    parser.add_argument("--budget", default="3%")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    engine = open_model(find_model("smollm2-135m"), n_threads=2)
    prompt = needle_prompt(engine.model, [NEEDLE], read_haystack([args.doc]), args.length, [args.depth])
    n_prompt, n_keep = len(prompt), parse_budget(args.budget).n_keep(len(prompt))
    answer_cells = find_span(engine.model, prompt.tokens, NEEDLE.answer)
    engine.read(prompt, Full(), Share(100))
    state = engine.cache.state(of_context=True)

    figure, axes = plt.subplots(len(COLORS), 1, figsize=(10, 4.2), sharex=True)
    for axis, (name, color) in zip(axes, COLORS.items(), strict=True):
        engine.cache.restore(state)
        get_policy(name).with_heads(engine.heads).evict(engine.cache, n_keep)
        kept, mib = engine.cache.sequence.coverage(), engine.cache.n_bytes / 2**20
        answer = "".join(engine.stream(12)).split("\n")[0].strip()
        axis.fill_between(np.arange(n_prompt), kept, step="mid", color=color, linewidth=0)
        axis.plot(
            [(answer_cells.start + answer_cells.stop) / 2], [1.15], "v", color="#b3202c", markersize=7, clip_on=False
        )
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
