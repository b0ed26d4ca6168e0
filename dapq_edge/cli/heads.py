"""`dapq-edge heads`: find the heads of a model that retrieve facts, and show them."""

from dataclasses import dataclass

from .command import Command, CommandGroup
from .options import RunningModel, Source, group, option
from .options.arguments import positive_or


@dataclass(frozen=True)
class _Drawn:
    """Options of both actions."""

    plot: str | None = option("--plot", metavar="OUT.png", help="draw layers x heads (needs matplotlib)")


@dataclass(frozen=True)
class CalibrateOptions(_Drawn):
    """Options of `calibrate`."""

    haystack: str | None = option("--haystack", metavar="DIR", help="folder with *.txt (default: texts of our own)")
    needles: str | None = option("--needles", metavar="FILE", help="facts, JSONL (default: facts of our own)")
    data: str | None = option(
        "--data", metavar="FILE", help="questions, JSONL, with *.txt beside it (default: questions of our own)"
    )
    length: int = option(
        "--length", type=positive_or(), default=896, metavar="N", help="tokens of a prompt (default: 896)"
    )
    model: RunningModel = group("model")


@dataclass(frozen=True)
class ShowOptions(_Drawn):
    """Options of `show`."""

    json: bool = option("--json", action="store_true", help="print the profile")
    model: Source = group("model")


COMMAND = CommandGroup(
    "heads",
    "find the heads of a model that retrieve facts",
    "action",
    (
        Command("calibrate", "measure the heads and keep their profile", CalibrateOptions, "calibrating:calibrate"),
        Command("show", "list the best heads", ShowOptions, "calibrating:show"),
    ),
)
