"""`dapq-edge store`: what is kept on disk."""

from dataclasses import dataclass

from .command import Command, CommandGroup
from .options import StoreFolder


@dataclass(frozen=True)
class Options(StoreFolder):
    """Options of all actions."""


COMMAND = CommandGroup(
    "store",
    "what was read, and is kept on disk so that another question need not read it again",
    "action",
    (
        Command("list", "show what is kept", Options, "storing:show"),
        Command("remove", "remove all of it", Options, "storing:remove"),
        Command("check", "read all of it, and remove what is damaged", Options, "storing:check"),
    ),
)
