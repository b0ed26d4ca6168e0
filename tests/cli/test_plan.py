"""`dapq-edge plan`: what a model takes."""

import json
import math
from pathlib import Path

import pytest
from helpers.cli import assert_one_line, dapq_edge
from helpers.shapes import write_header
from helpers.tiny import Spec

from dapq_edge.cli import plan
from dapq_edge.cli.options import PlannedModel
from dapq_edge.errors import DapqError, UsageError
from dapq_edge.planning.gguf_shape import read_shape
from dapq_edge.planning.planner import most_cells
from dapq_edge.planning.ram import MIB


def arguments(
    path: Path, *, ram: str = "4G", json: bool = False, cache_ram: int = 0, **options: object
) -> plan.Options:
    model = {"cache_type_k": "f16", "cache_type_v": "f16", "n_gpu_layers": -1, "rpc": "", "ctx_size": 0}
    model |= {"model": str(path), "hf_repo": None, "offline": False, "batch_size": 512}
    return plan.Options(ram=ram, json=json, cache_ram=cache_ram, model=PlannedModel(**model | options))


def test_plan_as_json(tiny_model, capsys):
    spec = Spec(arch="gemma2", n_layer=5, window=8, n_ctx=3000)
    path = tiny_model(spec)
    shape, options = read_shape(path), ("q8_0", "f16", 512)
    ram = int(shape.total_bytes(2048, *options) / 0.9) + 2
    assert plan.COMMAND.call(arguments(path, ram=f"{ram}B", cache_type_k="q8_0", json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report.pop("budgets")
    # 2 KV heads of 64 numbers for K, and as many for V, in 2 layers
    assert report == {
        "model": str(path),
        "architecture": "gemma2",
        "n_ctx_train": 3000,
        "n_ctx": 3000,
        "ram_bytes": ram,
        "cache_ram_bytes": 0,
        "cache_type_k": "q8_0",
        "cache_type_v": "f16",
        "weight_bytes": sum(weight.nbytes for weight in spec.weights.values()),
        "kv_bytes_per_token": {"f16": 2 * 256 * 2, "q8_0": 2 * 256 * 34 // 32, "q4_0": 2 * 256 * 18 // 32},
        "window_bytes": 768 * 3 * (136 + 256),
        "full_kv_bytes": 3072 * 2 * (136 + 256) + 768 * 3 * (136 + 256),
        # 32 tokens behind each window of 768
        "stored_bytes_per_token": dict.fromkeys(("q8_0", "f16"), math.ceil(5 * (136 + 256) * 800 / 768)),
        "obstacle": "",
        "choice": {"n_most": 1536, "n_keep": 1024, "is_full": False},
    }
    assert [row["budget"] for row in rows] == [256, 512, 1024, 2048, 3000]
    assert [row["cells"] for row in rows] == [768, 1024, 1536, 2560, 3072]
    assert [row["fits"] for row in rows] == [True, True, True, False, False]
    for row in rows:
        assert row["kv_bytes"] == row["cells"] * 2 * 392 + 768 * 3 * 392
        assert row["total_bytes"] == shape.total_bytes(row["cells"], *options)


def test_conversations_that_were_left_are_counted(tiny_model, capsys):
    path, reports = tiny_model(Spec(n_ctx=65536)), []
    for cache_ram in (0, 3, 256):
        assert plan.COMMAND.call(arguments(path, ram="104M", cache_ram=cache_ram, json=True)) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert [report["cache_ram_bytes"] for report in reports] == [0, 3 * MIB, 13 * MIB]
    shape = read_shape(path)
    for report in reports:
        ram = 104 * MIB - report["cache_ram_bytes"]
        assert report["choice"]["n_most"] == most_cells(shape, ram, "f16", "f16", 512) - 512
    assert reports[0]["choice"]["n_most"] > reports[1]["choice"]["n_most"] > reports[2]["choice"]["n_most"]


def test_plan_as_text(tiny_model, capsys):
    path = tiny_model(Spec(n_ctx=65536))
    shape = read_shape(path)
    assert plan.COMMAND.call(arguments(path, ram="124M", ctx_size=30000)) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "KV of a token, q8_0 │ 0.8 KiB" in text
    # 30,208 cells of 1,536 bytes
    assert "KV of 30,000 tokens (f16, f16) │ 44.2 MiB" in text
    total = shape.total_bytes(1536, "f16", "f16", 512) / MIB
    assert f"│ 1,024 │ 1,536 │ 2.2 │ {total:.1f} │ yes │" in text
    n_most = most_cells(shape, 124 * MIB, "f16", "f16", 512) - 512
    assert f"keeps prompts of up to {n_most:,} tokens" in text
    assert "from 3,750 cells on" in text
    assert plan.COMMAND.call(arguments(path, ctx_size=300)) == 0
    assert "keeps all, as the full cache of 300 tokens fits" in capsys.readouterr().out


def test_plan_of_a_model_that_cannot_be_evicted(tmp_path, capsys):
    """What all cells need, and why."""
    path = write_header(tmp_path / "model.gguf", "bloom", {})
    assert plan.COMMAND.call(arguments(path, json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert "ALiBi" in report["obstacle"]
    assert report["choice"] is None
    assert [(row["budget"], row["cells"]) for row in report["budgets"]] == [(4096, 4096)]
    assert plan.COMMAND.call(arguments(path)) == 0
    assert "cannot be evicted: its attention needs the position of each cell (ALiBi)" in capsys.readouterr().out


def test_plan_refuses(tiny_model):
    path = tiny_model(Spec())
    with pytest.raises(UsageError, match="ram '4 apples'"):
        plan.COMMAND.call(arguments(path, ram="4 apples"))
    with pytest.raises(UsageError, match="type_v q9: choose one of"):
        plan.COMMAND.call(arguments(path, cache_type_v="q9"))
    with pytest.raises(DapqError, match=r"512 cells need .* there are 0 .*: take a smaller model"):
        plan.COMMAND.call(arguments(path, ram="10B"))


def test_plan(model, tmp_path):
    result = dapq_edge("plan", "-m", model, "--ram", "110M", "-c", 100000, "--json")
    data = json.loads(result.stdout)
    assert result.returncode == 0
    assert data
    assert_one_line(dapq_edge("plan", "-m", model, "--ram", "x"), 2, "--ram")
    assert_one_line(dapq_edge("plan", "-m", model, "--ram", "1"), 2, "--ram 1: of what? Give a unit: 1G, 1M, or 1B")
    assert_one_line(dapq_edge("plan", "-m", model, "--ram", "1M"), 1, "cells need", "there are 1 MiB (90% of 1 MiB)")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:500])
    assert_one_line(dapq_edge("plan", "-m", cut, "--ram", "1G"), 1, "broken or truncated")
