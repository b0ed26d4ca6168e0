"""`dapq-edge heads` and `dapq-edge eval` as a user runs them."""

import json
import signal
import subprocess
import time

import pytest
from test_cli import assert_one_line, assert_usage, command, dapq_edge
from test_evaluation import HAYSTACK, NEEDLES
from tiny import Spec


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(Spec(n_ctx=2048))


@pytest.fixture
def data(tmp_path):
    """A haystack and needles in its words."""
    (tmp_path / "text.txt").write_text(HAYSTACK)
    lines = [json.dumps({k: v for k, v in vars(needle).items() if v}) for needle in NEEDLES]
    (tmp_path / "needles.jsonl").write_text("\n".join(lines) + "\n")
    return ["--haystack", tmp_path, "--needles", tmp_path / "needles.jsonl"]


def needle(model, data, *args):
    return dapq_edge("eval", "needle", "-m", model, *data, "--lengths", 300, "--depths", 0.5, "-n", 4, *args)


def test_calibrate_then_show_then_use(model, data, tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = dapq_edge("heads", "show", "-m", model, **env)
    assert_one_line(result, 1, "dapq-edge heads calibrate")
    result = dapq_edge("heads", "calibrate", "-m", model, *data, "--length", 300, **env)
    assert result.returncode == 0, result.stderr.decode()
    assert b"query heads" in result.stdout
    shown = dapq_edge("heads", "show", "-m", model, "--json", **env)
    assert set(json.loads(shown.stdout)) == {"model", "retrieval", "errors"}
    doc = tmp_path / "text.txt"
    question = ["ask", "-m", model, "--doc", doc, "--policy", "compresskv", "--kv-budget", 64, "-n", 2, "What?"]
    assert dapq_edge(*question, "--one-shot", "--allow-overflow", **env).returncode == 0
    (profile,) = (tmp_path / "cache").rglob("*.json")
    profile.write_text("{")
    assert_one_line(dapq_edge(*question, **env), 1, str(profile), "no head profile")
    assert_one_line(dapq_edge(*question, XDG_CACHE_HOME=str(tmp_path)), 2, "dapq-edge heads calibrate")


def test_eval_prints_a_table_and_resumes(model, data, tmp_path):
    out = tmp_path / "out.jsonl"
    args = ["--budgets", 64, "25%", "--policies", "streaming", "fused", "--json", out]
    first = needle(model, data, *args)
    assert first.returncode == 0, first.stderr.decode()
    rows = out.read_text()
    assert len(rows.splitlines()) == len(NEEDLES) * (1 + 2 * 2) and b"of the full" in first.stdout
    # streaming sees no attention, and the full cache loses none
    held = [json.loads(row)["result"].get("held") for row in rows.splitlines()]
    assert len([share for share in held if share is None]) == 3 * len(NEEDLES)
    assert all(0 < share < 1 for share in held if share is not None) and b"held" in first.stdout
    again = needle(model, data, *args)
    assert again.stdout == first.stdout and out.read_text() == rows


def test_other_data_and_cache_types_are_not_taken_for_the_same(model, data, tmp_path):
    out = tmp_path / "out.jsonl"
    args = ["--budgets", 64, "--policies", "streaming", "--json", out]
    n_rows = 2 * len(NEEDLES)
    assert needle(model, data, *args).returncode == 0 and out.read_text().count("\n") == n_rows
    result = needle(model, data, *args, "-ctk", "q8_0")
    assert out.read_text().count("\n") == 2 * n_rows and b"K/V q8_0/f16" in result.stdout, result.stderr.decode()
    (tmp_path / "text.txt").write_text("Another beginning. " + HAYSTACK)
    assert needle(model, data, *args).returncode == 0 and out.read_text().count("\n") == 3 * n_rows


def test_interrupted_eval_resumes(model, data, tmp_path):
    """Ctrl-C keeps the rows that are done, and the next run measures the others only."""
    out = tmp_path / "out.jsonl"
    args = ["eval", "needle", "-m", model, *data, "--lengths", 300, "-n", 4, "--budgets", 64, "25%", "--json", out]
    n_rows = len(NEEDLES) * 5 * 3
    # a process in the background of a script may have inherited that it ignores Ctrl-C
    process = subprocess.Popen(
        command(*args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr.decode().strip()) == (130, "dapq-edge: interrupted")
    done = out.read_text()
    assert 3 <= done.count("\n") < n_rows and done.endswith("\n")
    result = dapq_edge(*args)
    assert result.returncode == 0, result.stderr.decode()
    rows = out.read_text().splitlines()
    assert out.read_text().startswith(done) and len(set(rows)) == len(rows) == n_rows


def test_length_above_the_context(tiny_model, data):
    result = needle(tiny_model(Spec(n_ctx=256)), data)
    assert_one_line(result, 1, "trained for 256")


def test_eval_plots_and_reports(model, data, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "results"
    folder.mkdir()
    assert_one_line(dapq_edge("eval", "report", folder), 1, "no results")
    picture = tmp_path / "out.png"
    args = ["--budgets", 64, "--policies", "streaming", "--json", folder / "out.jsonl", "--plot", picture]
    result = needle(model, data, *args, "--facts", 2)
    assert result.returncode == 0 and picture.read_bytes().startswith(b"\x89PNG"), result.stderr.decode()
    result = dapq_edge("eval", "report", folder)
    assert result.returncode == 0 and "2 facts" in (folder / "report.md").read_text(), result.stderr.decode()
    (folder / "other.jsonl").write_text("{}\n")
    assert_one_line(dapq_edge("eval", "report", folder), 1, "other.jsonl, line 1")


def test_eval_of_generated_ruler(model):
    result = dapq_edge(
        *("eval", "ruler", "-m", model, "--tasks", "single", "--lengths", 600, "--rows", 1, "--budgets", 64, "-n", 4)
    )
    assert result.returncode == 0 and b"ruler single" in result.stdout, result.stderr.decode()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--policies", "nonsense"], 2, ["choose one of"]),
        (["--budgets", "0"], 2, ["--kv-budget"]),
        (["--budgets", "3"], 2, ["always keeps 12 cells"]),
        (["--depths", "2"], 2, ["--depths"]),
        (["--lengths", "100000"], 1, ["too short"]),
        (["--paraphrased"], 1, ["paraphrase"]),
        (["--lengths", "20"], 1, ["20 tokens have no room"]),
        (["--offsets", "99"], 1, ["too short for 99 parts"]),
        (["--policies", "streaming", "pyramid", "--granularity", "cell"], 2, ["other numbers of cells"]),
        (["--policies", "streaming", "compresskv"], 2, ["dapq-edge heads calibrate"]),
        (["--facts", "3"], 1, ["as many needles"]),
        (["--needles", "/nonexistent"], 1, ["/nonexistent"]),
        (["--haystack", "/nonexistent"], 1, ["no *.txt"]),
        (["--heads", "/nonexistent"], 1, ["/nonexistent"]),
        (["--json", "/nonexistent/out.jsonl"], 1, ["/nonexistent/out.jsonl"]),
    ],
)
def test_bad_input(model, data, args, code, words):
    assert_one_line(needle(model, data, *args), code, *words)


def test_calibration_without_facts(model, data, tmp_path):
    (tmp_path / "needles.jsonl").write_text("\n")
    assert_one_line(dapq_edge("heads", "calibrate", "-m", model, *data), 1, "no needles in")


def test_bad_tasks(model):
    assert_one_line(dapq_edge("eval", "ruler", "-m", model, "--tasks", "x"), 2, "--tasks x: choose of single")
    assert_one_line(dapq_edge("eval", "fidelity", "-m", model, "--data", "/nonexistent"), 1, "/nonexistent")
    assert_usage(dapq_edge("eval", "needle", "-m", model), "--haystack")
