"""`dapq-edge read`: read documents before anything is asked about them."""

from dataclasses import dataclass

from .command import Command
from .options import Files, RunningModel, Store, group, option
from .options.documents import KINDS


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    files: list[str] = option("files", nargs="+", metavar="FILE", help=f"{KINDS}; a folder, a pattern, or - for stdin")
    heads: str | None = option(
        "--heads", metavar="FILE", help="head profile (default: the one that dapq-edge heads calibrate made)"
    )
    documents: Files = group("documents")
    model: RunningModel = group("model")
    store: Store = group("store")


COMMAND = Command(
    "read",
    "read documents into the store, so that questions about them need not",
    Options,
    "ahead:read",
)
