"""`dapq-edge heads`: calibrate, show and use a profile."""

import json

import pytest
from helpers.cli import assert_one_line, assert_usage, dapq_edge


@pytest.mark.slow
def test_calibrate_then_show_then_use(model, data, tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = dapq_edge("heads", "show", "-m", model, **env)
    assert_one_line(result, 1, "dapq-edge heads calibrate")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"fact": "the-tide-is-at-noon.", "question": "when?", "answer": "noon"}) + "\n")
    data = [*data, "--data", questions]
    result = dapq_edge("heads", "calibrate", "-m", model, *data, "--length", 300, **env)
    assert result.returncode == 0, result.stderr.decode()
    assert b"query heads" in result.stdout
    shown = dapq_edge("heads", "show", "-m", model, "--json", **env)
    assert set(json.loads(shown.stdout)) == {"model", "retrieval", "errors", "query", "sensitivity"}
    doc = tmp_path / "text.txt"
    question = ["ask", "-m", model, "--doc", doc, "--policy", "compresskv", "--kv-budget", 64, "-n", 2, "What?"]
    assert dapq_edge(*question, "--one-shot", "--allow-overflow", **env).returncode == 0
    (profile,) = (tmp_path / "cache").rglob("*.json")
    profile.write_text("{")
    assert_one_line(dapq_edge(*question, **env), 1, str(profile), "no head profile")
    assert_one_line(dapq_edge(*question, XDG_CACHE_HOME=str(tmp_path)), 2, "dapq-edge heads calibrate")
    # which mends it
    assert dapq_edge("heads", "calibrate", "-m", model, *data, "--length", 300, **env).returncode == 0
    assert dapq_edge("heads", "show", "-m", model, **env).returncode == 0
    assert_usage(dapq_edge("heads", "show", "-m", model, "-ctk", "q8_0"), "unrecognized arguments: -ctk")


def test_calibration_without_facts(model, data, tmp_path):
    (tmp_path / "needles.jsonl").write_text("\n")
    assert_one_line(dapq_edge("heads", "calibrate", "-m", model, *data), 1, "no line is a needle")


def test_calibration_without_questions(model, data, tmp_path):
    (tmp_path / "questions.jsonl").write_text("\n")
    args = ["heads", "calibrate", "-m", model, *data, "--data", tmp_path / "questions.jsonl"]
    assert_one_line(dapq_edge(*args), 1, "no line is a question")
