"""`dapq-edge ask`: read a document, evict, answer."""

from dataclasses import dataclass

from .command import Command
from .options import Reading, Sampling, SizedModel, Store, group, option
from .options.eviction import OF_DOCUMENT


@dataclass(frozen=True)
class Question:
    """A document, and what is wanted of it."""

    question: str = option("question", nargs="?", default="", help="without it, the document is the whole message")
    doc: str = option("--doc", required=True, metavar="FILE", help="text, Markdown, HTML or PDF; - for stdin")
    answer_prefix: str = option("--answer-prefix", default="", metavar="TEXT", help="first words of the answer")


CELLS = {"help": "cells of the KV cache (default: as many as needed)"}


@dataclass(frozen=True)
class Options(Question):
    """Options of the command."""

    json: bool = option("--json", action="store_true", help="print one JSON object instead of text")
    model: SizedModel = group("model", ctx_size=CELLS)
    reading: Reading = group("eviction", **OF_DOCUMENT)
    store: Store = group("store")
    sampling: Sampling = group("sampling")


COMMAND = Command("ask", "ask a question about a document", Options, "asking:answer")
