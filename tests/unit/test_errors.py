"""Messages that name parameters, for Python, for the command line and for OpenAI's API."""

import re

import pytest
from helpers.paths import ROOT

from dapq_edge.cli.names import flag_of, message_of
from dapq_edge.cli.parser import build_parser
from dapq_edge.errors import DapqError, UsageError


def test_a_parameter_is_said_as_its_reader_calls_it():
    error = UsageError("5: raise it, or `n_ctx`, or use `policy=full`", param="kv_budget")
    assert str(error) == "kv_budget 5: raise it, or n_ctx, or use policy=full"
    assert message_of(error) == "--kv-budget 5: raise it, or -c, or use --policy full"
    assert error.param == "kv_budget"
    assert str(DapqError()) == ""


def parameters():
    """Names between backticks in messages, and those of `param=`."""
    for path in (ROOT / "dapq_edge").rglob("*.py"):
        for line in path.read_text().splitlines():
            if re.search(r"Error\(|f?\"", line) and '"""' not in line and not line.strip().startswith("#"):
                yield from re.findall(r"`([a-z_]+)(?:=[^`]*)?`", line)
            yield from re.findall(r"param=\"([a-z_]+)\"", line)


def options(parser):
    for action in parser._actions:
        yield from action.option_strings
        for command in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            yield from options(command)


@pytest.mark.parametrize(
    "name", sorted(set(parameters()) - {"dapq_edge", "grammar", "logit_bias", "tokens", "tool_choice"})
)
def test_every_parameter_of_a_message_has_an_option(name):
    """What only requests have (grammar, logit_bias, tokens, tool_choice) has none."""
    assert flag_of(name) in set(options(build_parser()))


def test_no_message_below_the_command_line_speaks_of_options():
    for path in sorted((ROOT / "dapq_edge").rglob("*.py")):
        if "cli" in path.parts:
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            # what pip and CMake take is theirs
            found = re.search(r"(?<![\w-])(--[a-z][a-z-]+|-(?:c|b|ctk|ctv|hf|ngl|fa) )", line)
            allowed = '"--' in line or "-hf` of llama.cpp" in line or "--cache-type" in line
            assert not found or allowed, f"{path}:{number}: {line}"
