"""`dapq-edge store`: what is kept on disk."""

from dataclasses import dataclass

from .command import Command, CommandGroup
from .options import StoreFolder, option


@dataclass(frozen=True)
class Options(StoreFolder):
    """Options of all actions."""


@dataclass(frozen=True)
class ListOptions(Options):
    """Options of `list`."""

    json: bool = option("--json", action="store_true", help="print a JSON list instead of a table")


COMMAND = CommandGroup(
    "store",
    "what was read, and is kept on disk so that another question need not read it again",
    "action",
    (
        Command("list", "show what is kept", ListOptions, "storing:show"),
        Command("remove", "remove all of it", Options, "storing:remove"),
        Command("check", "read all of it, and remove what is damaged", Options, "storing:check"),
    ),
)
