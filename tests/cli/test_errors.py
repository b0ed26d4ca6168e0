"""What is wrong on the command line: one line, and an exit code."""

import argparse

import pytest
from helpers.cli import TEXT, ask, assert_one_line, assert_usage, dapq_edge

from dapq_edge.cells import MIN_BATCH
from dapq_edge.cli.parser import build_parser


@pytest.mark.parametrize("budget", ["0", "-1", "nan%", "150%", "many", "5"])
def test_bad_budget(model, doc, budget):
    assert_one_line(ask(model, doc, f"--kv-budget={budget}"), 2, "--kv-budget", budget)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--policy", "nonsense"), "choose one of"),
        (("-ctk", "q9_9"), "choose one of"),
    ],
)
def test_bad_choice(model, doc, args, word):
    assert_one_line(ask(model, doc, *args), 2, word)


@pytest.mark.parametrize(
    "args",
    [
        ("-c", "-5"),
        ("-c", "2147483648"),
        ("-t", "0"),
        ("-t", "513"),
        ("-n", "0"),
        ("-n", "99999999999"),
        ("-ngl", "-2"),
        ("--temp", "nan"),
        ("--temp", "-1"),
        ("-fa", "maybe"),
        ("-b", "x"),
    ],
)
def test_bad_option(model, doc, args):
    assert_usage(ask(model, doc, *args), args[0])


def commands_with(flag, parser=None, names=()):
    """The names of all commands that take an option."""
    parser = parser or build_parser()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from commands_with(flag, inner, (*names, name))
        elif flag in action.option_strings:
            yield names


@pytest.mark.parametrize("names", list(commands_with("-b")), ids=" ".join)
def test_a_batch_holds_a_probe(names):
    assert_usage(
        dapq_edge(*names, "-b", MIN_BATCH - 1), "-b/--batch-size", f"'63' is not a whole number from {MIN_BATCH}"
    )


def test_all_that_read_take_batches():
    assert {names[0] for names in commands_with("-b")} == {
        "ask",
        "chat",
        "serve",
        "kept",
        "plan",
        "read",
        "heads",
        "eval",
    }


@pytest.mark.parametrize(("command", "least"), [("serve", 0), ("rpc-server", 1)])
@pytest.mark.parametrize("port", [-1, 65536, 80933])
def test_bad_ports(command, least, port):
    assert_usage(
        dapq_edge(command, f"--port={port}"), "--port", f"'{port}' is not a whole number from {least} to 65535"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a" * 70, "a..b"])
def test_bad_hosts(model, host):
    """Addresses of others, and what is none."""
    for command in (("serve", "-m", model, "--port", 0), ("rpc-server", "--port", 50052)):
        result = dapq_edge(*command, "--host", host)
        assert_one_line(result, 1, f"cannot listen on {host}:")
        assert b"Errno" not in result.stderr


def test_no_command_and_no_model(doc):
    assert_usage(dapq_edge(), "COMMAND")
    assert_usage(dapq_edge("ask", "--doc", doc, "Why?"), "--model")


def test_unknown_options(model, doc):
    """The command says where its options are; what was typed is one line, without codes for the terminal."""
    assert_usage(ask(model, doc, "--bogus"), "unrecognized arguments: --bogus", "see dapq-edge ask --help")
    assert_usage(ask(model, doc, "a\nb\x1b[31m"), "a?b?[31m")


@pytest.mark.parametrize("command", ["ask", "kept"])
@pytest.mark.parametrize("question", ["", " \n"])
def test_no_question(model, doc, command, question):
    """One that is empty is a mistake, perhaps of a script; a model would answer it with anything."""
    assert_usage(dapq_edge(command, "-m", model, "--doc", doc, question), "it is empty")


def test_bad_models(tmp_path, model, doc):
    assert_one_line(ask(tmp_path / "missing.gguf", doc), 1, "no model")
    (tmp_path / "text.gguf").write_text("not a model")
    assert_one_line(ask(tmp_path / "text.gguf", doc), 1, "is not a GGUF file")
    data = model.read_bytes()
    for name, size, cause in (
        ("header", 30, "failed to read"),
        ("metadata", 3000, "failed to read"),
        ("tensors", len(data) - 5000, "is not within the file bounds"),
    ):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data[:size])
        assert_one_line(ask(path, doc), 1, "cannot load", path.name, cause)


def test_bad_documents(tmp_path, model):
    for data, word in ((b"", "has no text"), (b"\0\1\2", "is binary"), (b"\xff", "is not UTF-8")):
        path = tmp_path / "document"
        path.write_bytes(data)
        assert_one_line(ask(model, path), 1, word)
    assert_one_line(ask(model, tmp_path / "missing.txt"), 1, "No such file")
    assert_one_line(ask(model, tmp_path), 1, "none of 1 file can be read")
    assert_one_line(ask(model, "-"), 1, "stdin has no text")


def test_too_few_cells(model, doc):
    assert_one_line(ask(model, doc, "-c", 256), 1, "reading needs", "cells: raise -c 256 or leave it out")
    assert ask(model, doc, "-c", 1024).returncode == 0


def test_question_beyond_the_budget(model, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(TEXT * 10)
    result = dapq_edge("ask", "-m", model, "--doc", path, "Why? " * 50, "--kv-budget", 100)
    assert result.returncode == 0
    assert b"tokens of the system message and the request have no room" in result.stderr
    result = dapq_edge("ask", "-m", model, "--doc", path, "Why? " * 50, "--kv-budget", 30)
    assert_one_line(result, 2, "the question has", "set --kv-budget to")


def test_hf_offline(doc, tmp_path):
    result = dapq_edge("ask", "-hf", "user/repo", "--offline", "--doc", doc, "Why?", HF_HUB_CACHE=str(tmp_path))
    assert_one_line(result, 1, "is not in the cache")
    assert_one_line(dapq_edge("ask", "-hf", "repo", "--doc", doc, "Why?"), 2, "user/repo")
