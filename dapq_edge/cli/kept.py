"""`dapq-edge kept`: which tokens of a document are kept for a question."""

from dataclasses import dataclass

from .ask import CELLS, Question
from .command import Command
from .options import Reading, SizedModel, Store, group, option
from .options.arguments import positive_or
from .options.eviction import OF_SHOWN


@dataclass(frozen=True)
class Options(Question):
    """Options of the command."""

    layer: int | None = option("--layer", type=positive_or(0), metavar="N", help="only the heads of this layer")
    html: str | None = option("--html", metavar="OUT.html", help="write a page instead")
    plot: str | None = option("--plot", metavar="OUT.png", help="draw layers x positions instead (needs matplotlib)")
    model: SizedModel = group("model", ctx_size=CELLS)
    reading: Reading = group("eviction", **OF_SHOWN)
    store: Store = group("store")


COMMAND = Command(
    "kept",
    "show which tokens of a document are kept for a question",
    Options,
    "keeping:show",
    description="Show a document, shaded by how many heads keep each token for a question.",
)
