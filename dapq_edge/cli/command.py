"""Commands: a name, options, and a function that takes them."""

import argparse
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .options import add_options, read_options


@dataclass(frozen=True)
class Command:
    """A command of `dapq-edge`.

    Attributes:
        name: What is typed.
        help: A line in the list of commands.
        options: A class of options.
        run: "module:function" of this package, which takes the options and returns the exit code. It is imported when
            the command runs, because what it needs takes time.
        description: The first lines of its own --help; default: `help` as a sentence.
    """

    name: str
    help: str
    options: type
    run: str
    description: str = ""

    def add(self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        """Add the command to a parser; its namespace has a `run` without arguments."""
        parser = commands.add_parser(
            self.name, help=self.help, description=self.description or _sentence(self.help), allow_abbrev=False
        )
        add_options(parser, self.options)
        parser.set_defaults(run=lambda namespace: self.call(read_options(self.options, namespace)), fail=parser.error)

    def call(self, options: Any) -> int:
        """Run the command with its options; returns the exit code."""
        module, _, function = self.run.partition(":")
        return int(getattr(import_module(f".{module}", __package__), function)(options))


@dataclass(frozen=True)
class CommandGroup:
    """Commands under a common name."""

    name: str
    help: str
    title: str
    commands: tuple[Command, ...]

    def add(self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        """Add the group to a parser."""
        parser = commands.add_parser(self.name, help=self.help, description=_sentence(self.help), allow_abbrev=False)
        actions = parser.add_subparsers(title=f"{self.title}s", metavar=self.title.upper(), required=True)
        for command in self.commands:
            command.add(actions)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
