"""`dapq-edge ask`: what it reads, keeps and prints."""

import json

import pytest
from helpers.cli import TEXT, ask, assert_one_line, dapq_edge
from helpers.tiny import Spec

from dapq_edge.cells import MIN_BATCH


def test_json(model, doc):
    result = ask(model, doc, "--kv-budget", "50%")
    assert result.returncode == 0, result.stderr.decode()
    data = json.loads(result.stdout)
    assert list(data) == [
        "answer",
        "finish_reason",
        "sources",
        "coverage",
        "not_found",
        "partial",
        "notes",
        "policy",
        "reading",
        "positions",
        "prompt_tokens",
        "tokens_evaluated",
        "windows_read",
        "windows",
        "windows_stored",
        "head_profile",
        "chunks",
        "kv_cells_peak",
        "kv_cells_kept",
        "unpinned_tokens",
        "kv_bytes_peak",
        "kv_bytes_kept",
        "attention_kept",
        "evict_s",
        "ttft_s",
        "decode_tps",
        "rss_mib",
    ]
    spec = Spec()
    cell = spec.n_layer * 2 * spec.n_head_kv * spec.head_dim * 2
    assert (data["policy"], data["reading"], data["positions"], data["chunks"]) == ("fused", "full", "true", [])
    assert data["prompt_tokens"] == data["tokens_evaluated"] > 280
    assert data["kv_cells_kept"] == -(-data["prompt_tokens"] // 2)
    assert data["kv_bytes_peak"] == cell * data["kv_cells_peak"]
    # a state has positions and marks beside K and V
    assert 1 < data["kv_bytes_kept"] / (cell * data["kv_cells_kept"]) < 1.03
    assert data["ttft_s"] > data["evict_s"] > 0
    assert data["rss_mib"] > 10


def test_an_answer_that_is_cut_says_so(model, doc, monkeypatch):
    """In one line, or as `finish_reason`; one that the model ends is not."""
    cut = ask(model, doc)
    assert json.loads(cut.stdout)["finish_reason"] == "length"
    assert b"was cut" not in cut.stderr
    line = ask(model, doc, is_json=False).stderr.decode()
    assert line.count("the answer was cut after 4 tokens: raise -n") == 1
    monkeypatch.setattr("dapq_edge.llamacpp.model.Model.is_end", lambda model, token: True)
    assert json.loads(ask(model, doc).stdout)["finish_reason"] == "stop"
    assert b"was cut" not in ask(model, doc, is_json=False).stderr


def test_the_speed_is_of_what_was_written(model, doc):
    """Tokens that the eviction wrote ahead took no time behind it."""
    budget = ("--kv-budget", "64")
    evicted = json.loads(ask(model, doc, *budget).stdout)
    assert evicted["kv_cells_kept"] < evicted["prompt_tokens"]
    assert evicted["decode_tps"] is None
    assert b"tokens/s" not in ask(model, doc, *budget, is_json=False).stderr
    assert json.loads(ask(model, doc, *budget, "-n", 60).stdout)["decode_tps"] > 0
    assert json.loads(ask(model, doc).stdout)["decode_tps"] > 0


def test_all_of_a_short_document_is_kept(model, doc):
    """By default, if memory has room for it, as everywhere."""
    data = json.loads(ask(model, doc).stdout)
    assert data["kv_cells_kept"] == data["prompt_tokens"]


def test_coverage(model, tmp_path):
    """What was read of each file is said."""
    names = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for name in names:
        name.write_text(f"{TEXT} So ends {name.stem}.")
    whole = ask(model, names[0], "--doc", names[1], "--kv-budget", "90%")
    data = json.loads(whole.stdout)
    assert data["coverage"]["read"] == [{"file": str(name), "page": ""} for name in names]
    assert data["not_found"] is False
    part = ask(model, names[0], "--doc", names[1], "--kv-budget", 100)
    coverage = json.loads(part.stdout)["coverage"]
    assert {page["file"] for pages in coverage.values() for page in pages} == set(map(str, names))
    lines = ask(model, names[0], "--kv-budget", "90%", is_json=False).stderr.decode()
    assert "read all of the text" in lines


@pytest.mark.slow
def test_long_document(model, tmp_path):
    """More than the model was trained for, in the cells of the budget and a chunk."""
    path = tmp_path / "long.txt"
    path.write_text(TEXT * 20)
    data = json.loads(ask(model, path, "--kv-budget", 200).stdout)
    assert data["prompt_tokens"] > 4096
    assert (data["reading"], data["positions"]) == ("skim", "compact")
    assert data["kv_cells_peak"] == 768
    assert data["kv_cells_kept"] == 200
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
        assert data["reading"] == {"--policy": "chunked", "--one-shot": "full"}[args[0]]
        assert data["kv_cells_kept"] == 200


def test_without_a_question(model, doc):
    result = dapq_edge("ask", "-m", model, "--doc", doc, "-n", 4, "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["prompt_tokens"] > 270


def test_text(model, doc):
    result = dapq_edge("ask", "-m", model, "--doc", doc, "What jumps?", "-n", 4, "--kv-budget", 100)
    assert result.returncode == 0
    line = " ".join(result.stderr.decode().split())
    assert "tokens read in 512 cells; kept 100; they hold " in line
    assert "% of the attention; KV " in line
    assert "s to first token" in line
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
    args = ("--kv-budget", 40, "--temp", 10, "-n", 20, "--policy", "dapq")
    runs = [json.loads(ask(model, doc, *args, "--seed", seed).stdout)["answer"] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_stdin_and_window_model(tiny_model):
    model = tiny_model(Spec(arch="gemma2", n_layer=4, n_ctx=2048))
    result = ask(model, "-", "--kv-budget", "50%", stdin=TEXT.encode())
    data = json.loads(result.stdout)
    assert data["kv_cells_kept"] < data["prompt_tokens"]


def test_recurrent_model(recurrent_model, doc):
    assert_one_line(ask(recurrent_model, doc), 1, "--policy full")
    data = json.loads(ask(recurrent_model, doc, "--policy", "full").stdout)
    assert data["kv_cells_kept"] == data["prompt_tokens"]


def test_the_smallest_batches(model, doc):
    """They hold the queries of a probe."""
    result = dapq_edge(
        "ask", "-m", model, "--doc", doc, "-b", MIN_BATCH, "-n", 2, "--kv-budget", 64, "--one-shot", "Why?"
    )
    assert result.returncode == 0, result.stderr.decode()


def test_auto_budget(model, doc):
    result = dapq_edge("ask", "-m", model, "--doc", doc, "--kv-budget", "auto", "-n", 2, "--json", "What jumps?")
    data = json.loads(result.stdout)
    assert data["reading"] == "full"
    assert data["kv_cells_kept"] == data["prompt_tokens"]
    assert data["attention_kept"] is None
