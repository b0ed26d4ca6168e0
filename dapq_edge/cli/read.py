"""`dapq-edge read`: read documents before anything is asked about them."""

from dataclasses import dataclass

from .command import Command
from .options import RunningModel, Store, group, option


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    files: list[str] = option("files", nargs="+", metavar="FILE", help="text, Markdown, HTML or PDF; - for stdin")
    heads: str | None = option(
        "--heads", metavar="FILE", help="head profile (default: the one that dapq-edge heads calibrate made)"
    )
    model: RunningModel = group("model")
    store: Store = group("store")


COMMAND = Command(
    "read",
    "read documents into the store, so that questions about them need not",
    Options,
    "ahead:read",
)
