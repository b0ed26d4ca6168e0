"""Measures and shows the heads of a model that retrieve facts."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..calibration.calibrate import BUILT_IN
from ..calibration.calibrate import calibrate as measure
from ..calibration.needles import read_haystack, read_needles
from ..calibration.questions import BUILT_IN as BUILT_IN_QUESTIONS
from ..calibration.questions import ask_all, read_questions, read_texts
from ..control import Control
from ..errors import DapqError
from ..evaluation.plots import plot_heads
from ..eviction.heads import HeadProfile, find_profile_file, load_profile, profile_path
from ..llamacpp.log import captured_log
from ..render.pictures import require_matplotlib
from . import printing
from .heads import CalibrateOptions, ShowOptions
from .running import check_model, find, open_engine, progress_bar, shown_in

# tokens of a document in which the fact of a question is
N_DOCUMENT = 2048

# heads that `show` lists
N_SHOWN = 16


def calibrate(options: CalibrateOptions) -> int:
    """Measure the heads and keep their profile; returns the exit code."""
    check_model(options.model)
    if options.plot:
        require_matplotlib()
    console, start = Console(stderr=True), time.perf_counter()
    needles = read_needles(Path(options.needles) if options.needles else BUILT_IN / "needles.jsonl")
    haystacks = _haystacks(options.haystack)
    data = Path(options.data) if options.data else BUILT_IN_QUESTIONS / "calibrate.jsonl"
    questions, texts = read_questions(data), read_texts(data.parent)
    with captured_log():
        engine = open_engine(options.model, console, find_heads=False)
        with progress_bar(console) as bar:
            control = Control(shown_in(bar, "calibrating"))
            asked = list(ask_all(engine.model, questions, texts, N_DOCUMENT))
            profile = measure(engine, haystacks, needles, options.length, asked, control)
    path = profile_path(engine.model.path)
    profile.save(path)
    _print(profile)
    if options.plot:
        plot_heads(profile, Path(options.plot))
    console.print(f"{time.perf_counter() - start:.0f} s; {path}", style="dim", highlight=False, soft_wrap=True)
    return 0


def show(options: ShowOptions) -> int:
    """List the best heads; returns the exit code."""
    if options.plot:
        require_matplotlib()
    model = find(options.model, Console(stderr=True))
    path = find_profile_file(model)
    if path is None:
        raise DapqError(f"no head profile of {model}: make one with dapq-edge heads calibrate")
    profile = load_profile(path, model)
    if options.json:
        print(json.dumps(asdict(profile)))
    else:
        _print(profile)
        Console(stderr=True).print(str(path), style="dim", highlight=False, soft_wrap=True)
    if options.plot:
        plot_heads(profile, Path(options.plot))
    return 0


def _haystacks(haystack: str | None) -> list[str]:
    folder = Path(haystack) if haystack else BUILT_IN
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise DapqError(f"no *.txt in {folder}")
    # texts of our own are long enough one by one, others perhaps only together
    return [read_haystack(paths)] if haystack else [read_haystack([path]) for path in paths]


def _print(profile: HeadProfile) -> None:
    heads = [(share, layer, head) for layer, row in profile.retrieval.items() for head, share in enumerate(row)]
    table = Table(title=f"the {N_SHOWN} of {len(heads)} query heads that attend most from an answer to its fact")
    for heading in ("layer", "head", "attention", "eviction error of the layer", "harm of evicting the layer"):
        table.add_column(heading, justify="right")
    for share, layer, head in sorted(heads, reverse=True)[:N_SHOWN]:
        harm = profile.sensitivity.get(layer)
        error = f"{profile.errors[layer]:.2f}"
        table.add_row(str(layer), str(head), f"{share:.2f}", error, "" if harm is None else f"{harm:.1%}")
    printing.show(table)
    table = Table(title="the query heads that tell best which chunk of a text answers a question")
    for heading in ("layer", "head", "standard deviations above other chunks"):
        table.add_column(heading, justify="right")
    for query in profile.query:
        table.add_row(str(query.layer), str(query.head), f"{query.score:.2f}")
    if profile.query:
        printing.show(table)
