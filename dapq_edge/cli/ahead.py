"""Reads documents into the store."""

import time

from rich.console import Console

from ..control import Control
from ..counts import count
from ..documents.document import Document
from ..errors import DapqError, UsageError
from ..llamacpp.log import captured_log
from ..prompt.chat_template import chat_prompt
from ..reading.engine import Engine
from .read import Options
from .running import check_model, open_engine, progress_bar, read_all, say, shown_in

# any will do: what a window is read for does not depend on it
QUESTION = "What does it say?"


def read(options: Options) -> int:
    """Read documents into the store; returns the exit code."""
    if options.store.no_store:
        raise UsageError("there is nothing to read for", param="no_store")
    check_model(options.model)
    console = Console(stderr=True)
    documents = read_all(options.files, options.documents, console)
    with captured_log():
        engine = open_engine(options.model, console, heads=options.heads, store=options.store)
        if engine.store is None:
            raise DapqError("there is no store to read into")
        for document in documents:
            _read(engine, document, console)
    return 0


def _read(engine: Engine, document: Document, console: Console) -> None:
    start, prompt = time.perf_counter(), chat_prompt(engine.model, document.text, QUESTION)
    with progress_bar(console) as bar:
        control = Control(shown_in(bar, "reading"))
        ahead = engine.read_ahead(prompt, control)
    say(ahead.faults, console)
    print(
        f"{document.name}: {count(len(prompt.body), 'token')}, {count(ahead.n_windows, 'window')}, "
        f"{ahead.n_stored:,} of them read before, {time.perf_counter() - start:.1f} s",
        flush=True,
    )
