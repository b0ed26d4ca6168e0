"""Texts for the documentation: each command's --help, and the table of policies."""

import argparse
import os
from unittest import mock

from .parser import build_parser


def help_of(*command: str) -> str:
    """Return the --help of a command ("eval", "needle"), or of `dapq-edge` itself, as a block of Markdown."""
    parser = build_parser()
    for name in command:
        actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parser = actions[0].choices[name]
    # argparse wraps at the width of the terminal
    with mock.patch.dict(os.environ, {"COLUMNS": "100"}):
        return f"\n```text\n{parser.format_help().strip()}\n```\n"


def policies_table() -> str:
    """Return what `dapq-edge policies` prints, as a block of Markdown."""
    from .policies import policy_lines

    return "\n```text\n" + "\n".join(policy_lines()) + "\n```\n"
