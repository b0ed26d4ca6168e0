"""Time of reading a text up to a layer against reading it whole, alternating in one run: medians and their ratio.

.venv/bin/python scripts/bench/layers.py --layers 12 18 24
"""

import argparse
import statistics
import sys
import time

import llama_cpp
import numpy as np
from rich.console import Console
from rich.table import Table

from dapq_edge import find_model
from dapq_edge.llamacpp import native
from dapq_edge.llamacpp.context import FLASH_ATTN
from dapq_edge.llamacpp.log import captured_log


def open_context(path: str, args: argparse.Namespace) -> llama_cpp.llama_context_p:
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = args.tokens, args.tokens, 512
    params.n_threads = params.n_threads_batch = args.threads
    params.flash_attn_type = FLASH_ATTN[args.flash_attn]
    return llama_cpp.llama_init_from_model(model, params)


def read(ctx: llama_cpp.llama_context_p, tokens: np.ndarray, n_layer: int) -> float:
    """Seconds of reading the tokens into an empty memory, without logits."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), False)
    native.set_n_layer_eval(ctx, n_layer)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, False
    start = time.perf_counter()
    code = llama_cpp.llama_decode(ctx, batch)
    llama_cpp.llama_synchronize(ctx)
    seconds = time.perf_counter() - start
    llama_cpp.llama_batch_free(batch)
    assert code == 0
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-fa", "--flash-attn", choices=FLASH_ATTN, default="on")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 12, 18, 24])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    ctx = open_context(str(find_model(args.model)), args)
    tokens = np.random.default_rng(0).integers(100, 1000, args.tokens)
    numbers = [0, *args.layers]
    seconds: dict[int, list[float]] = {n: [] for n in numbers}
    for n in numbers * args.rounds:
        seconds[n].append(read(ctx, tokens, n))
    table = Table(title=f"{args.tokens} tokens, flash attention {args.flash_attn}, medians of {args.rounds}")
    for heading in ("layers", "seconds", "of all"):
        table.add_column(heading, justify="right")
    whole = statistics.median(seconds[0])
    for n, values in seconds.items():
        median = statistics.median(values)
        table.add_row(str(n or "all"), f"{median:.3f}", f"{median / whole:.3f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    with captured_log():
        sys.exit(main())
