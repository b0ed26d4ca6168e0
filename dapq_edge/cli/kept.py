"""`dapq-edge kept`: which tokens of a document are kept for a question."""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from .. import native
from ..documents import read_document
from ..errors import UsageError
from ..files import write_atomically
from ..pictures import require_matplotlib
from ..policies import get_policy
from ..prompts import chat_prompt
from ..reading import ReadingLlama
from ..shading import to_html, to_picture, to_terminal
from .model import check_eviction_options, check_model_options, find_budget, load_heads, load_model, read_prompt


def run(args: argparse.Namespace) -> int:
    check_eviction_options(args)
    check_model_options(args)
    if args.plot:
        require_matplotlib()
    with native.captured_log():
        return _show(args)


def _show(args: argparse.Namespace) -> int:
    console = Console(stderr=True)
    document = read_document(args.doc)
    llama = load_model(args, console)
    layers = list(llama.kv_cache.gathered_heads())
    if args.layer is not None and args.layer not in layers:
        raise UsageError(f"--layer {args.layer}: choose one of {', '.join(map(str, layers))}")
    policy = get_policy(args.policy, args.granularity, load_heads(args, llama))
    prompt = chat_prompt(llama, document, args.question, args.answer_prefix)
    stats = read_prompt(llama, prompt, policy, find_budget(args, llama), args, console)
    pieces = llama.kept(None if args.layer is None else layers.index(args.layer))
    summary = f"{policy.name} keeps {stats.cells_kept:,} of {len(prompt):,} tokens in each head"
    if args.layer is not None:
        summary += f"; layer {args.layer}"
    if args.html:
        page = to_html(pieces, args.question or args.doc, summary)
        write_atomically(Path(args.html), page.encode("utf-8", "replace"))
    if args.plot:
        to_picture(_shares(llama, len(layers)), layers, summary, Path(args.plot))
    if not args.html and not args.plot:
        Console().print(to_terminal(pieces), highlight=False)
    console.print(summary, style="dim", highlight=False, soft_wrap=True)
    return 0


def _shares(llama: ReadingLlama, n_layers: int) -> np.ndarray:
    """[layers, tokens]."""
    return np.stack([llama.share_of_heads(i) for i in range(n_layers)])
