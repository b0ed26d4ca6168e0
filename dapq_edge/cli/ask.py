"""`dapq-edge ask`: read a document, evict, answer."""

import argparse
from dataclasses import dataclass

from .command import Command
from .options import Documents, Reading, Sampling, SizedModel, Store, group, option, whole_option
from .options.eviction import OF_DOCUMENT


def _not_blank(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: ask something, or leave it out")
    return text


@dataclass(frozen=True)
class Question:
    """Documents, and what is wanted of them."""

    question: str | None = option(
        "question", nargs="?", type=_not_blank, help="without it, the documents are the whole message"
    )
    answer_prefix: str = option("--answer-prefix", default="", metavar="TEXT", help="first words of the answer")
    documents: Documents = group("documents", doc={"required": True})

    @property
    def asked(self) -> str:
        """The question; empty if the documents are the whole message."""
        return self.question or ""


CELLS = {"help": "cells of the KV cache (default: as many as needed)"}


@dataclass(frozen=True)
class Options(Question):
    """Options of the command."""

    whole: str = whole_option()
    json: bool = option("--json", action="store_true", help="print one JSON object instead of text")
    model: SizedModel = group("model", ctx_size=CELLS)
    reading: Reading = group("eviction", **OF_DOCUMENT)
    store: Store = group("store")
    sampling: Sampling = group("sampling")


COMMAND = Command("ask", "ask a question about a document", Options, "asking:answer")
