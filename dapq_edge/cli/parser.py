"""The parser of the whole command line."""

import argparse
from typing import Any, NoReturn

from . import ask, chat, eval, heads, kept, plan, policies, read, rpc_server, serve, store
from .command import Command, CommandGroup
from .exits import USAGE

COMMANDS: tuple[Command | CommandGroup, ...] = (
    ask.COMMAND,
    chat.COMMAND,
    serve.COMMAND,
    kept.COMMAND,
    plan.COMMAND,
    read.COMMAND,
    store.COMMAND,
    heads.COMMAND,
    eval.COMMAND,
    policies.COMMAND,
    rpc_server.COMMAND,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; modules that take time are imported when a command runs."""
    parser: argparse.ArgumentParser = _Parser(
        prog="dapq-edge",
        description="Ask about long documents in little memory: decoding-aligned KV cache eviction for llama.cpp.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="versions of the package, the patch and llama.cpp; backends")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; its commands are parsers of this kind, too."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # the command knows its options
            found.fail(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def error(self, message: str) -> NoReturn:
        # what was typed may have other lines, or codes for the terminal
        from ..documents.source import printable

        self.exit(USAGE, f"dapq-edge: {printable(message)}: see {self.prog} --help\n")


class _Version(argparse.Action):
    """Looks the versions up only when they are asked for."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .version import version_text

        print(version_text())
        parser.exit()
