"""`dapq-edge eval`: tables, rows that are kept, and pictures."""

import json

import pytest
from helpers.cli import assert_one_line, assert_usage, dapq_edge
from helpers.needles import HAYSTACK, NEEDLES
from helpers.tiny import Spec


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(Spec(n_ctx=2048))


def needle(model, data, *args):
    return dapq_edge("eval", "needle", "-m", model, *data, "--lengths", 300, "--depths", 0.5, "-n", 4, *args)


def test_eval_prints_a_table_and_resumes(model, data, tmp_path):
    out = tmp_path / "out.jsonl"
    args = ["--budgets", 64, "25%", "--policies", "streaming", "fused", "--json", out]
    first = needle(model, data, *args)
    assert first.returncode == 0, first.stderr.decode()
    rows = out.read_text()
    assert len(rows.splitlines()) == len(NEEDLES) * (1 + 2 * 2)
    # a pipe has no edge
    assert any("policy" in line and "of the full cache" in line for line in first.stdout.decode().splitlines())
    # streaming sees no attention, and the full cache loses none
    held = [json.loads(row)["result"].get("attention_kept") for row in rows.splitlines()]
    assert len([share for share in held if share is None]) == 3 * len(NEEDLES)
    assert all(0 < share < 1 for share in held if share is not None)
    assert b"attention" in first.stdout
    again = needle(model, data, *args)
    assert again.stdout == first.stdout
    assert out.read_text() == rows


def test_other_data_and_cache_types_are_not_taken_for_the_same(model, data, tmp_path):
    out = tmp_path / "out.jsonl"
    args = ["--budgets", 64, "--policies", "streaming", "--json", out]
    n_rows = 2 * len(NEEDLES)
    assert needle(model, data, *args).returncode == 0
    assert out.read_text().count("\n") == n_rows
    result = needle(model, data, *args, "-ctk", "q8_0")
    assert out.read_text().count("\n") == 2 * n_rows, result.stderr.decode()
    assert b"K/V q8_0/f16" in result.stdout, result.stderr.decode()
    (tmp_path / "text.txt").write_text("Another beginning. " + HAYSTACK)
    assert needle(model, data, *args).returncode == 0
    assert out.read_text().count("\n") == 3 * n_rows


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
    assert result.returncode == 0, result.stderr.decode()
    assert picture.read_bytes().startswith(b"\x89PNG"), result.stderr.decode()
    result = dapq_edge("eval", "report", folder)
    assert result.returncode == 0, result.stderr.decode()
    assert "2 facts" in (folder / "report.md").read_text(), result.stderr.decode()
    (folder / "other.jsonl").write_text("{}\n")
    assert_one_line(dapq_edge("eval", "report", folder), 1, "other.jsonl, line 1")


def test_eval_of_generated_ruler(model):
    result = dapq_edge(
        *("eval", "ruler", "-m", model, "--tasks", "single", "--lengths", 600, "--rows", 1, "--budgets", 64, "-n", 4)
    )
    assert result.returncode == 0, result.stderr.decode()
    assert b"ruler single" in result.stdout, result.stderr.decode()


def test_eval_of_shared_texts(model, tmp_path):
    args = ["eval", "shared", "-m", model, "--tasks", "keys", "--lengths", 600, "--rows", 1, "--budgets", 200, "-n", 4]
    once = dapq_edge(*args, "--policies", "streaming")
    assert once.returncode == 0, once.stderr.decode()
    assert b"turns" in once.stdout
    assert b"requests" in once.stdout
    again = dapq_edge(*args, "--modes", "requests", "--reread", "--store", tmp_path / "store")
    assert again.returncode == 0, again.stderr.decode()
    assert b"read again for each question" in again.stdout
    assert any((tmp_path / "store").rglob("*"))
    assert_usage(dapq_edge(*args, "--tasks", "x"), "invalid choice: 'x'")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--policies", "nonsense"], 2, ["choose one of"]),
        (["--budgets", "0"], 2, ["--kv-budget"]),
        (["--budgets", "auto"], 2, ["--budgets auto: give numbers"]),
        (["--budgets", "3"], 2, ["always keeps 12 cells"]),
        (["--depths", "2"], 2, ["--depths"]),
        (["--lengths", "100000"], 1, ["too short"]),
        (["--paraphrased"], 1, ["paraphrase"]),
        (["--lengths", "20"], 1, ["no room for what is asked in 20 tokens"]),
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


def test_bad_tasks(model):
    assert_one_line(dapq_edge("eval", "ruler", "-m", model, "--tasks", "x"), 2, "--tasks x: choose of single")
    assert_one_line(dapq_edge("eval", "fidelity", "-m", model, "--data", "/nonexistent"), 1, "/nonexistent")
    assert_usage(dapq_edge("eval", "needle", "-m", model), "--haystack")


def test_relevance(model, data, tmp_path):
    """Ranks of all ways, which a rerun takes from the file; a table and a picture of them."""
    row = {"fact": "the-tide-is-at-noon.", "question": "when-is-the-tide?", "answer": "noon"}
    (tmp_path / "questions.jsonl").write_text(2 * (json.dumps(row) + "\n"))
    results, picture = tmp_path / "results" / "a.jsonl", tmp_path / "a.png"
    results.parent.mkdir()
    args = [
        "eval",
        "relevance",
        "-m",
        model,
        "--data",
        tmp_path / "questions.jsonl",
        "--rows",
        1,
        "--lengths",
        400,
        900,
    ]
    first = dapq_edge(*args, "--json", results, "--plot", picture)
    assert first.returncode == 0, first.stderr.decode()
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["key"]["policy"] for row in rows] == ["bm25", "embeddings", "guess"] * 2
    for row in rows:
        assert 0 <= row["result"]["rank"] < row["result"]["chunks"] == (3 if row["key"]["length"] == 400 else 5)
        assert row["result"]["among_four"] == (row["result"]["rank"] < 4)
    # its words stand nowhere else
    assert all(row["result"]["first"] for row in rows if row["key"]["policy"] == "bm25")
    assert picture.read_bytes().startswith(b"\x89PNG")
    size = results.stat().st_size
    assert dapq_edge(*args, "--json", results).stdout == first.stdout
    assert results.stat().st_size == size
    assert dapq_edge("eval", "report", results.parent).returncode == 0
    assert "among four" in (results.parent / "report.md").read_text()
    literal = dapq_edge("eval", "relevance", "-m", model, *data, "--lengths", 400)
    assert literal.returncode == 0, literal.stderr.decode()
    assert_one_line(dapq_edge(*args[:-2], 10**6), 1, "too short")


def rows_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_resumed_and_reported(args, results, first):
    """A rerun takes all rows from the file, and the page of all results has them."""
    size = results.stat().st_size
    again = dapq_edge(*args, "--json", results)
    assert again.stdout == first.stdout
    assert results.stat().st_size == size
    assert dapq_edge("eval", "report", results.parent).returncode == 0
    (picture,) = results.parent.glob("*.png")
    assert picture.name in (results.parent / "report.md").read_text()


def test_citations(model, data, tmp_path):
    results, picture = tmp_path / "results" / "a.jsonl", tmp_path / "a.png"
    results.parent.mkdir()
    args = ["eval", "citations", "-m", model, *data[:2], "--kv-budget", 200, "-n", 4]
    few = [*args, "--pages", 3, "--questions", 2]
    first = dapq_edge(*few, "--json", results, "--plot", picture)
    assert first.returncode == 0, first.stderr.decode()
    rows = rows_in(results)
    assert len(rows) == 2
    assert all(row["key"]["pages"] == 3 and row["result"]["n_invented"] == 0 for row in rows)
    assert b"citations" in first.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert_resumed_and_reported(few, results, first)
    assert_one_line(dapq_edge(*args), 2, "--pages 100: the text has", "longer --haystack")
    assert_one_line(dapq_edge(*args, "--pages", 101), 2, "--pages 101: there are 100 facts")
    assert_one_line(dapq_edge(*args, "--pages", 3), 2, "--questions 40: no more than 3 pages with a fact")
    assert_one_line(dapq_edge(*few, "--kv-budget", "auto"), 2, "--kv-budget auto: give a number")
    assert_one_line(dapq_edge(*few, "--policy", "nonsense"), 2, "choose one of")
    assert_one_line(dapq_edge(*few, "--haystack", "/nonexistent"), 1, "no *.txt in /nonexistent")


def test_absent(model, data, tmp_path):
    results, picture = tmp_path / "results" / "a.jsonl", tmp_path / "a.png"
    results.parent.mkdir()
    args = ["eval", "absent", "-m", model, *data, "--lengths", 400, "--questions", 3]
    first = dapq_edge(*args, "--json", results, "--plot", picture)
    assert first.returncode == 0, first.stderr.decode()
    assert [row["key"]["fact"] for row in rows_in(results)] == ["there"] * 3 + ["absent"] * 3
    assert b"not there" in first.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert_resumed_and_reported(args, results, first)
    # without a file, facts and questions of our own, in both ways to ask
    ours, own = tmp_path / "own.jsonl", args[:4] + args[8:10]
    result = dapq_edge(*own, "--questions", 1, "--half", "choose", "--json", ours)
    assert result.returncode == 0, result.stderr.decode()
    found = [(row["key"]["asked"], row["key"]["fact"]) for row in rows_in(ours)]
    literal = [("the fact's", fact) for fact in ("there", "absent", "another")]
    assert found == [*literal, ("other", "there"), ("other", "absent")]
    # by default with long texts, too, where there are some
    assert_one_line(dapq_edge(*args[:8], *args[10:]), 1, "too short for 32,768 tokens: give a longer --haystack")
