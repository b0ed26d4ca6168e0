"""Evaluation: cases, results that a rerun resumes from, and summaries."""

import json
import resource

import numpy as np
import pytest
from tiny import Spec

from dapq_edge.errors import DapqError
from dapq_edge.evaluation import ruler
from dapq_edge.evaluation.needle import Needle, needle_cases
from dapq_edge.evaluation.results import Results
from dapq_edge.evaluation.runner import evaluate, jobs_of
from dapq_edge.evaluation.summary import group_by, mean, of_full, wilson
from dapq_edge.llama import Llama
from dapq_edge.policies import get_policy

HAYSTACK = "some ordinary words without any sense go on and on, and then they stop. " * 60
NEEDLES = [Needle(f" the-word-is-{word}. ", "what is the word?", "the word is", word) for word in ("XQ7Z", "KJ5W")]
OPTIONS = {"lengths": [300], "depths": [0.1, 0.9], "n_offsets": 2, "seed": 0, "n_predict": 4}


@pytest.fixture
def llama(tiny_model):
    llama = Llama(tiny_model(Spec(n_ctx=8192)), n_threads=2)
    yield llama
    llama.close()


def text_of(llama, tokens):
    """The tiny vocabulary spells blanks as SentencePiece writes them."""
    return llama.detokenize(tokens).decode().replace("▁", " ")


def run(llama, results, policies=("dapq", "streaming"), budgets=("64", "50%"), bounded=False, **options):
    cases = list(needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, **options}))
    jobs = jobs_of([get_policy(name) for name in policies], budgets)
    steps = []
    evaluate(llama, cases, jobs, results, bounded=bounded, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (len(cases) * len(jobs),) * 2 and steps == sorted(steps)
    return len(cases) * len(jobs)


def test_needle_cases(llama):
    cases = list(needle_cases(NEEDLES, HAYSTACK, **OPTIONS))
    assert len(cases) == len({json.dumps(case.key, sort_keys=True) for case in cases}) == 2 * 2 * 2
    for case in cases:
        prompt = case.prompt(llama)
        assert 290 < len(prompt) <= 300
        place = len(prompt.head) + case.place(llama, prompt)
        text = text_of(llama, prompt.tokens[: place + 1])
        assert text.endswith(f"-{case.outputs[0]}.")
        assert abs(place / len(prompt) - case.key["depth"]) < 0.15
    with pytest.raises(DapqError, match="paraphrase"):
        list(needle_cases(NEEDLES, HAYSTACK, **OPTIONS, paraphrased=True))
    with pytest.raises(DapqError, match="too short"):
        next(needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, "lengths": [9000]})).prompt(llama)


@pytest.mark.parametrize("bounded", [False, True])
def test_a_rerun_resumes(llama, tmp_path, monkeypatch, bounded):
    """Only what is missing is measured, also after the last line was cut off; the rows are the same."""
    path = tmp_path / "out.jsonl"
    n_rows = run(llama, Results(path), bounded=bounded)
    whole = path.read_text()
    lines = whole.splitlines()
    assert len(lines) == n_rows
    path.write_text("\n".join(lines[: n_rows // 2]) + "\n" + lines[n_rows // 2][:30])
    again = Results(path)
    assert len(again.rows) == n_rows // 2
    run(llama, again, bounded=bounded)
    times = {"ttft_s"}
    assert [{k: v for k, v in row.items() if k not in times} for row in again.rows] == [
        {k: v for k, v in {**json.loads(line)["key"], **json.loads(line)["result"]}.items() if k not in times}
        for line in lines
    ]
    monkeypatch.setattr(llama, "read", lambda *_, **__: pytest.fail("everything was measured already"))
    run(llama, Results(path), bounded=bounded)


def test_full_disk_loses_no_row(tmp_path):
    path = tmp_path / "out.jsonl"
    results = Results(path)
    results.add({"a": 1}, {"score": 1.0})
    size = path.stat().st_size
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limit[1]))
    try:
        with pytest.raises(DapqError, match="cannot write.*the rows before are kept"):
            results.add({"a": 2}, {"score": 1.0, "answer": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.stat().st_size == size and Results(path).rows == [{"a": 1, "score": 1.0}]


@pytest.mark.parametrize("line", ["{}", "[]", "text", '{"key": {"a": 1}}'])
def test_file_of_something_else(tmp_path, line):
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps({"key": {}, "result": {}}) + f"\n{line}\n")
    with pytest.raises(DapqError, match="line 2: not a result"):
        Results(path)


@pytest.mark.parametrize("kind", ruler.GENERATORS)
def test_generated_ruler(llama, kind):
    """The lines stand in the text in order, and what is asked for is among them."""
    (a, b, *_) = list(ruler.generated_cases([kind], [1500], 3, 0, 8))
    (again, *_) = list(ruler.generated_cases([kind], [1500], 3, 0, 8))
    prompts = [text_of(llama, case.prompt(llama).tokens) for case in (a, b, again)]
    assert prompts[0] == prompts[2] != prompts[1]
    assert 1300 < len(a.prompt(llama)) <= 1500
    assert all(prompts[0].count(output) >= 1 for output in a.outputs) and ruler.FILLER in prompts[0]
    assert len(a.outputs) == {"single": 1, "multikey": 1, "multivalue": 4, "multiquery": 4, "tracking": 5}[kind]
    with pytest.raises(DapqError, match="raise --lengths"):
        next(ruler.generated_cases([kind], [50], 1, 0, 8)).prompt(llama)


def test_variable_tracking_is_solvable():
    """Following the assignments gives the outputs."""
    sample = ruler.variable_tracking(np.random.default_rng(3))
    values = {}
    for line in sample.lines:
        _, name, _, value = line.rstrip(".").replace("= VAR ", "= ").split()
        values[name] = values.get(value, value)
    wanted = sample.answer_prefix.split()[-2]
    assert [name for name, value in values.items() if value == wanted] == sample.outputs


def test_ruler_file(llama, tmp_path):
    path = tmp_path / "rows.jsonl"
    text = "A line of text. " * 20 + "\nWhat is it? It is"
    path.write_text(json.dumps({"input": text, "outputs": ["a", "b"]}) + '\n{"input": "x"}\n')
    cases = ruler.file_cases(path, 5, 8)
    prompt = next(cases).prompt(llama)
    assert prompt.tokens == llama.tokenize(text.encode())
    assert text_of(llama, prompt.tail).endswith("What is it? It is") and prompt.has_question
    with pytest.raises(DapqError, match="line 2: not a row of RULER"):
        next(cases)


def test_score_of_full():
    """Prompts that the full cache does not answer do not count."""
    rows = [{"task": "t", "row": i, "policy": "full", "score": full} for i, full in enumerate([1, 1, 0, 0.5])]
    rows += [{"task": "t", "row": i, "policy": "x", "score": score} for i, score in enumerate([1, 0, 1, 0.5])]
    estimate = of_full(rows, group_by(rows, ["policy"])[("x",)])
    assert estimate.mean == pytest.approx(2 / 3) and 0 < estimate.low < estimate.mean < estimate.high < 1
    assert of_full([], rows) is None


def test_intervals():
    assert wilson(1.0, 10).high == 1 and wilson(1.0, 10).low == pytest.approx(0.722, abs=1e-3)
    assert wilson(0.5, 100).low == pytest.approx(0.404, abs=1e-3)
    estimate = mean([1, 2, 3])
    assert estimate.mean == 2 and estimate.high - 2 == pytest.approx(1.96 / np.sqrt(3))
    assert mean([1]).high == np.inf
