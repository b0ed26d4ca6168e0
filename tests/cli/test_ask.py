"""The command line as a user runs it: a process of its own, its streams and its exit code."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny import Spec, write_recurrent_gguf

TEXT = "The quick brown fox jumps over the lazy dog. " * 6


def command(*args: object) -> list[str]:
    return [sys.executable, "-c", "import sys; from dapq_edge.cli import main; sys.exit(main())", *map(str, args)]


def dapq_edge(*args: object, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(*args), input=stdin, capture_output=True, env={**os.environ, **env}, timeout=300)


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(Spec(n_ctx=2048))


@pytest.fixture
def doc(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_text(TEXT)
    return path


def ask(model, doc, *args, **kwargs):
    return dapq_edge("ask", "-m", model, "--doc", doc, "What jumps?", "-n", 4, "--json", *args, **kwargs)


def assert_one_line(result, code: int, *words: str) -> None:
    """One clear line on stderr, nothing on stdout."""
    error = result.stderr.decode()
    assert result.returncode == code, error
    assert result.stdout == b""
    assert error.startswith("dapq-edge: ") and error.count("\n") == 1, error
    for word in words:
        assert word in error


def assert_usage(result, *words: str) -> None:
    """As argparse reports it: usage, then one line."""
    error = result.stderr.decode()
    assert result.returncode == 2 and result.stdout == b"" and "Traceback" not in error
    for word in words:
        assert word in error.splitlines()[-1]


def test_json(model, doc):
    result = ask(model, doc, "--kv-budget", "50%")
    assert result.returncode == 0, result.stderr.decode()
    data = json.loads(result.stdout)
    assert list(data) == [
        "answer",
        "policy",
        "reading",
        "positions",
        "prompt_tokens",
        "tokens_evaluated",
        "chunks",
        "kv_cells_peak",
        "kv_cells_kept",
        "kv_bytes_peak",
        "kv_bytes_kept",
        "attention_held",
        "evict_s",
        "ttft_s",
        "decode_tps",
        "rss_mib",
    ]
    spec = Spec()
    cell = spec.n_layer * 2 * spec.n_head_kv * spec.head_dim * 2
    assert (data["policy"], data["reading"], data["positions"], data["chunks"]) == ("fused", "all", "true", [])
    assert data["prompt_tokens"] == data["tokens_evaluated"] > 280
    assert data["kv_cells_kept"] == -(-data["prompt_tokens"] // 2)
    assert data["kv_bytes_peak"] == cell * data["kv_cells_peak"]
    assert data["kv_bytes_kept"] == cell * data["kv_cells_kept"]
    assert data["ttft_s"] > data["evict_s"] > 0 and data["rss_mib"] > 10


def test_long_document(model, tmp_path):
    """More than the model was trained for, in the cells of the budget and a chunk."""
    path = tmp_path / "long.txt"
    path.write_text(TEXT * 20)
    data = json.loads(ask(model, path, "--kv-budget", 200).stdout)
    assert data["prompt_tokens"] > 4096 and (data["reading"], data["positions"]) == ("skim, then read", "compact")
    assert data["kv_cells_peak"] == 768 and data["kv_cells_kept"] == 200
    assert 0 < sum(chunk["is_read"] for chunk in data["chunks"]) < len(data["chunks"])
    assert all(chunk["relevance"] > 0 and chunk["stop"] > chunk["start"] for chunk in data["chunks"])
    line = dapq_edge("ask", "-m", model, "--doc", path, "What jumps?", "-n", 4, "--kv-budget", 200).stderr.decode()
    read = ", ".join(str(i) for i, chunk in enumerate(data["chunks"], start=1) if chunk["is_read"])
    assert f"positions were compacted; re-read {read} of {len(data['chunks'])} chunks;" in " ".join(line.split())
    # the other ways need positions beyond the trained ones
    for args in (("--policy", "streaming"), ("--one-shot",)):
        refused = ask(model, path, "--kv-budget", 200, *args)
        assert_one_line(refused, 1, "the model was trained for 2,048", "--allow-overflow")
        data = json.loads(ask(model, path, "--kv-budget", 200, "--allow-overflow", *args).stdout)
        assert data["reading"] == {"--policy": "one pass", "--one-shot": "all"}[args[0]]
        assert data["kv_cells_kept"] == 200


def test_without_a_question(model, doc):
    result = dapq_edge("ask", "-m", model, "--doc", doc, "-n", 4, "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["prompt_tokens"] > 270


def test_text(model, doc):
    result = dapq_edge("ask", "-m", model, "--doc", doc, "What jumps?", "-n", 4, "--kv-budget", 100)
    assert result.returncode == 0
    line = " ".join(result.stderr.decode().split())
    assert (
        "tokens read in 512 cells; kept 100; they hold " in line
        and "% of the attention; KV " in line
        and "s to first token" in line
    )
    assert result.stdout.endswith(b"\n")


@pytest.mark.parametrize("policy", ["full", "streaming", "dapq", "fused"])
@pytest.mark.parametrize("cache", [(), ("-ctk", "q8_0", "-ctv", "q8_0"), ("-fa", "off")])
def test_policies_and_cache_types(model, doc, policy, cache):
    result = ask(model, doc, "--policy", policy, "--kv-budget", 64, *cache)
    data = json.loads(result.stdout)
    assert data["policy"] == policy
    assert data["kv_cells_kept"] == (data["prompt_tokens"] if policy == "full" else 64)


def test_budget_above_the_prompt_keeps_all(model, doc):
    """And gives the answer of the full cache."""
    full = json.loads(ask(model, doc, "--policy", "full").stdout)
    data = json.loads(ask(model, doc, "--kv-budget", 100000).stdout)
    assert data["kv_cells_kept"] == data["prompt_tokens"]
    assert data["answer"] == full["answer"]


@pytest.mark.parametrize("granularity", ["head", "layer", "cell"])
def test_granularity(model, doc, granularity):
    data = json.loads(ask(model, doc, "--granularity", granularity, "--kv-budget", 64).stdout)
    assert data["kv_cells_kept"] == 64


def test_seed_and_temperature(model, doc):
    # a random model is sure of nonsense unless it is hot
    args = ("--kv-budget", 40, "--temp", 10, "-n", 20)
    runs = [json.loads(ask(model, doc, *args, "--seed", seed).stdout)["answer"] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_stdin_and_window_model(tiny_model):
    result = ask(tiny_model(Spec(arch="gemma2", n_layer=4, n_ctx=2048)), "-", stdin=TEXT.encode())
    data = json.loads(result.stdout)
    assert data["kv_cells_kept"] < data["prompt_tokens"]


def test_recurrent_model(tmp_path, doc):
    path = write_recurrent_gguf(tmp_path / "mamba.gguf")
    assert_one_line(ask(path, doc), 1, "--policy full")
    data = json.loads(ask(path, doc, "--policy", "full").stdout)
    assert data["kv_cells_kept"] == data["prompt_tokens"]


def test_version_and_policies():
    lines = dapq_edge("--version").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["dapq-edge", "patch", "llama.cpp", "backends"]
    assert "0c1e57098" in lines[2] and "CPU" in lines[3]
    names = [line.split()[0] for line in dapq_edge("policies").stdout.decode().splitlines()]
    assert {"full", "streaming", "dapq", "fused"} <= set(names)


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
    "args", [("-c", "-5"), ("-t", "0"), ("-n", "0"), ("--temp", "nan"), ("--temp", "-1"), ("-fa", "maybe"), ("-b", "x")]
)
def test_bad_option(model, doc, args):
    assert_usage(ask(model, doc, *args), args[0])


def test_no_command_and_no_model(doc):
    assert_usage(dapq_edge(), "COMMAND")
    assert_usage(dapq_edge("ask", "--doc", doc, "Why?"), "--model")


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
    for data, word in ((b"", "has no text"), (b"\0\1\2", "is binary"), (b"\xff\xfe", "is not UTF-8")):
        path = tmp_path / "document"
        path.write_bytes(data)
        assert_one_line(ask(model, path), 1, word)
    assert_one_line(ask(model, tmp_path / "missing.txt"), 1, "No such file")
    assert_one_line(ask(model, tmp_path), 1, "Is a directory")
    assert_one_line(ask(model, "-"), 1, "stdin has no text")


def test_too_few_cells(model, doc):
    assert_one_line(ask(model, doc, "-c", 256), 1, "reading needs", "cells: raise -c 256 or leave it out")
    assert ask(model, doc, "-c", 1024).returncode == 0


def test_question_beyond_the_budget(model, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(TEXT * 10)
    result = dapq_edge("ask", "-m", model, "--doc", path, "Why? " * 50, "--kv-budget", 100)
    assert_one_line(result, 2, "the question has", "set --kv-budget to")


def limited(mib: int, *args: object) -> subprocess.CompletedProcess:
    """With an address space of so many MiB."""
    shell = ["sh", "-c", f'ulimit -v {mib * 1024}; exec "$@"', "sh", *command(*args)]
    return subprocess.run(shell, capture_output=True, timeout=100)


def test_context_that_cannot_be_opened(model, doc):
    # the K and V of so many cells would take 12 GiB
    result = limited(4096, "ask", "-m", model, "--doc", doc, "Why?", "-c", 2**23)
    assert_one_line(result, 1, "cannot open a context of 8388608 cells", "not enough memory", "lower -c")
    result = limited(4096, "ask", "-m", model, "--doc", doc, "Why?", "-n", 2**23, "--allow-overflow")
    assert_one_line(result, 1, "not enough memory", "-n")
    assert_one_line(ask(model, doc, "-fa", "off", "-ctv", "q4_0"), 1, "cannot open a context", "flash_attn")


def test_hf_offline(doc, tmp_path):
    result = dapq_edge("ask", "-hf", "user/repo", "--offline", "--doc", doc, "Why?", HF_HUB_CACHE=str(tmp_path))
    assert_one_line(result, 1, "is not in the cache")
    assert_one_line(dapq_edge("ask", "-hf", "repo", "--doc", doc, "Why?"), 2, "user/repo")


def test_reader_of_the_output_goes_away(model, doc):
    process = subprocess.Popen(
        command("ask", "-m", model, "--doc", doc, "Why?", "-n", 200), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    error = process.stderr.read().decode()
    assert process.wait(60) == 1
    assert "Traceback" not in error and "Exception" not in error


@pytest.mark.parametrize("while_generating", [False, True])
def test_interrupt(tiny_model, tmp_path, while_generating):
    """Ctrl-C while reading and while generating: one line, 130."""
    path = tmp_path / "long.txt"
    path.write_text(TEXT if while_generating else TEXT * 400)
    model = tiny_model(Spec(n_ctx=500_000))
    args = command("ask", "-m", model, "--doc", path, "Why?", "-n", 100_000, "-t", 1, "-b", 64)
    process = subprocess.Popen(
        args,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell that runs the tests in the background has its children ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        if while_generating:
            assert process.stdout.read(1)
        else:
            time.sleep(8)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.decode().splitlines()[-1] == "dapq-edge: interrupted"
    assert "Traceback" not in error.decode()


def test_arguments_that_are_no_text(model, doc):
    question = b"What is a caf\xe9?"
    args = [*map(os.fsencode, command("ask", "-m", model, "--doc", doc, "-n", 2)), question]
    result = subprocess.run(args, capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr.decode()


def test_output_to_a_full_disk():
    with open("/dev/full", "w") as full:
        result = subprocess.run(command("policies"), stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert result.returncode == 1 and "No space left" in result.stderr.decode().strip().splitlines()[-1]
    assert "Traceback" not in result.stderr.decode()


def test_batches_smaller_than_a_probe(model, doc):
    """They are made large enough for its queries."""
    result = dapq_edge("ask", "-m", model, "--doc", doc, "-b", 1, "-n", 2, "--kv-budget", 64, "--one-shot", "Why?")
    assert result.returncode == 0, result.stderr.decode()


def test_interrupt_in_a_callback_is_not_lost():
    """Python only prints an exception that is raised where C calls it, and goes on."""
    code = """
import ctypes, signal, sys, time, types
from dapq_edge import cli

signal.signal(signal.SIGINT, signal.default_int_handler)
callback = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
args = types.SimpleNamespace(run=lambda args: [callback(), time.sleep(60)])
cli.build_parser = lambda: types.SimpleNamespace(parse_args=lambda argv: args)
sys.exit(cli.main())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    assert (result.returncode, result.stderr.decode().strip()) == (130, "dapq-edge: interrupted")
