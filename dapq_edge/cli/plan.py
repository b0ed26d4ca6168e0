"""`dapq-edge plan`: what a model takes, and what budget the memory has room for."""

from dataclasses import dataclass

from .command import Command
from .options import PlannedModel, group, option
from .options.store import cache_ram_option


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    ram: str | None = option("--ram", metavar="4G", help="memory to plan for, with its unit (default: what is free)")
    json: bool = option("--json", action="store_true", help="print one JSON object instead of text")
    cache_ram: int = cache_ram_option()
    model: PlannedModel = group("model")


COMMAND = Command(
    "plan",
    "say what a model takes, and what budget fits",
    Options,
    "reporting:plan",
    description="Say what a model takes, and what budget the memory has room for, before it is loaded.",
)
