"""Shows a document with its kept tokens."""

from pathlib import Path

import numpy as np
from rich.console import Console

from ..counts import count
from ..errors import UsageError
from ..eviction.policies import get_policy
from ..files import write_atomically
from ..llamacpp.log import captured_log
from ..prompt.chat_template import chat_prompt
from ..render.pictures import require_matplotlib
from ..render.shading import to_html, to_picture, to_terminal
from . import printing
from .kept import Options
from .running import check_budget, check_model, open_to_read, read_one, read_prompt, warn


def show(options: Options) -> int:
    """Show a document with its kept tokens; returns the exit code."""

    check_budget(options.reading)
    check_model(options.model)
    if options.plot:
        require_matplotlib()
    # what llama.cpp reports becomes a part of our errors
    with captured_log():
        return _show(options)


def _show(options: Options) -> int:

    console, reading = Console(stderr=True), options.reading
    document, _ = read_one(options.documents, console)
    engine = open_to_read(options.model, reading, options.store, console)
    layers = list(engine.cache.gathered_heads())
    if options.layer is not None and options.layer not in layers:
        raise UsageError(f"{options.layer}: choose one of {', '.join(map(str, layers))}", param="layer")
    policy = get_policy(reading.policy, reading.granularity, engine.heads)
    prompt = chat_prompt(engine.model, document.text, options.asked, options.answer_prefix)
    stats = read_prompt(engine, prompt, policy, reading, console, n_predict=1, ctx_size=options.model.ctx_size)
    warn(stats, console)
    pieces = engine.kept(None if options.layer is None else layers.index(options.layer))
    summary = f"{policy.name} keeps {stats.cells_kept:,} of {count(len(prompt), 'token')} in each head"
    if options.layer is not None:
        summary += f"; layer {options.layer}"
    if options.html:
        page = to_html(pieces, options.asked or document.name, summary)
        write_atomically(Path(options.html), page.encode("utf-8", "replace"))
    if options.plot:
        shares = np.stack([engine.sequence.coverage(i) for i in range(len(layers))])
        to_picture(shares, layers, summary, Path(options.plot))
    if not options.html and not options.plot:
        printing.show(to_terminal(pieces))
    console.print(summary, style="dim", highlight=False, soft_wrap=True)
    return 0
