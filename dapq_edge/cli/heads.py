"""`dapq-edge heads`: find the heads of a model that retrieve facts, and show them."""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .. import native
from ..errors import DapqError
from ..evaluation.calibration import BUILT_IN
from ..evaluation.calibration import calibrate as measure
from ..evaluation.needle import read_haystack, read_needles
from ..evaluation.plots import plot_heads
from ..heads import HeadProfile, find_profile, profile_path
from ..pictures import require_matplotlib
from .model import check_model_options, find, load_model, progress_bar

# heads that `show` lists
N_SHOWN = 16


def calibrate(args: argparse.Namespace) -> int:
    check_model_options(args)
    if args.plot:
        require_matplotlib()
    console, start = Console(stderr=True), time.perf_counter()
    needles = read_needles(Path(args.needles) if args.needles else BUILT_IN / "needles.jsonl")
    haystacks = _haystacks(args)
    with native.captured_log():
        llama = load_model(args, console)
        with progress_bar(console) as bar:
            task = bar.add_task("calibrating")
            profile = measure(
                llama,
                haystacks,
                needles,
                args.length,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
    path = profile_path(Path(llama.model_path))
    profile.save(path)
    _print(profile)
    if args.plot:
        plot_heads(profile, Path(args.plot))
    console.print(f"{time.perf_counter() - start:.0f} s; {path}", style="dim", highlight=False, soft_wrap=True)
    return 0


def show(args: argparse.Namespace) -> int:
    if args.plot:
        require_matplotlib()
    model = find(args)
    profile = find_profile(model)
    if profile is None:
        raise DapqError(f"no head profile of {model}: make one with dapq-edge heads calibrate")
    if args.json:
        print(json.dumps(asdict(profile)))
    else:
        _print(profile)
    if args.plot:
        plot_heads(profile, Path(args.plot))
    return 0


def _haystacks(args: argparse.Namespace) -> list[str]:
    folder = Path(args.haystack) if args.haystack else BUILT_IN
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise DapqError(f"no *.txt in {folder}")
    # texts of our own are long enough one by one, others perhaps only together
    return [read_haystack(paths)] if args.haystack else [read_haystack([path]) for path in paths]


def _print(profile: HeadProfile) -> None:
    heads = [(share, layer, head) for layer, row in profile.retrieval.items() for head, share in enumerate(row)]
    table = Table(title=f"the {N_SHOWN} of {len(heads)} query heads that attend most from an answer to its fact")
    for heading in ("layer", "head", "attention", "eviction error of the layer"):
        table.add_column(heading, justify="right")
    for share, layer, head in sorted(heads, reverse=True)[:N_SHOWN]:
        table.add_row(str(layer), str(head), f"{share:.2f}", f"{profile.errors[layer]:.2f}")
    Console().print(table)
