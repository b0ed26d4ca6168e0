"""`dapq-edge ask`: read a document, evict, answer."""

from dataclasses import dataclass

from .command import Command
from .options import Documents, Reading, Sampling, SizedModel, Store, group, option
from .options.eviction import OF_DOCUMENT


@dataclass(frozen=True)
class Question:
    """Documents, and what is wanted of them."""

    question: str = option("question", nargs="?", default="", help="without it, the documents are the whole message")
    answer_prefix: str = option("--answer-prefix", default="", metavar="TEXT", help="first words of the answer")
    documents: Documents = group("documents", doc={"required": True})


CELLS = {"help": "cells of the KV cache (default: as many as needed)"}


@dataclass(frozen=True)
class Options(Question):
    """Options of the command."""

    whole: str = option(
        "--whole",
        choices=["auto", "on", "off"],
        default="auto",
        help="ask each window of a document that does not fit the budget, and join the answers: if the question asks "
        "for all of it and finds no place that stands out, always, or never (default: auto)",
    )
    json: bool = option("--json", action="store_true", help="print one JSON object instead of text")
    model: SizedModel = group("model", ctx_size=CELLS)
    reading: Reading = group("eviction", **OF_DOCUMENT)
    store: Store = group("store")
    sampling: Sampling = group("sampling")


COMMAND = Command("ask", "ask a question about a document", Options, "asking:answer")
