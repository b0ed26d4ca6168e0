"""Evaluation: cases, results that a rerun resumes from, and summaries."""

import itertools
import json
import re
import resource
from dataclasses import replace

import numpy as np
import pytest
from test_probe import random_tokens
from tiny import Spec

from dapq_edge.budgets import Budget
from dapq_edge.errors import DapqError
from dapq_edge.evaluation import ruler
from dapq_edge.evaluation.calibration import BUILT_IN
from dapq_edge.evaluation.needle import Needle, needle_cases, read_needles
from dapq_edge.evaluation.report import write_report
from dapq_edge.evaluation.results import Results
from dapq_edge.evaluation.runner import evaluate, jobs_of
from dapq_edge.evaluation.snapshot import Snapshot
from dapq_edge.evaluation.summary import group_by, mean, of_full, summaries, wilson
from dapq_edge.policies import get_policy
from dapq_edge.reading import ReadingLlama

HAYSTACK = "some ordinary words without any sense go on and on, and then they stop. " * 60
NEEDLES = [Needle(f" the-word-is-{word}. ", "what is the word?", "the word is", word) for word in ("XQ7Z", "KJ5W")]
OPTIONS = {"lengths": [300], "depths": [0.1, 0.9], "n_offsets": 2, "seed": 0, "n_predict": 4}


@pytest.fixture
def llama(tiny_model):
    llama = ReadingLlama(tiny_model(Spec(n_ctx=8192)), n_threads=2)
    yield llama
    llama.close()


def text_of(llama, tokens):
    """The tiny vocabulary spells blanks as SentencePiece writes them."""
    return llama.detokenize(tokens).decode().replace("▁", " ")


def run(llama, results, policies=("dapq", "streaming"), budgets=("64", "50%"), bounded=False, **options):
    cases = list(needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, **options}))
    jobs = jobs_of([get_policy(name) for name in policies], budgets, bounded)
    steps = []
    evaluate(llama, cases, jobs, results, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (len(cases) * len(jobs),) * 2 and steps == sorted(steps)
    return len(cases) * len(jobs)


def test_needle_cases(llama):
    cases = list(needle_cases(NEEDLES, HAYSTACK, **OPTIONS))
    assert len(cases) == len({json.dumps(case.key, sort_keys=True) for case in cases}) == 2 * 2 * 2
    for case in cases:
        prompt = case.prompt(llama)
        assert 290 < len(prompt) <= 300
        place = len(prompt.head) + case.places(llama, prompt)[0]
        text = text_of(llama, prompt.tokens[: place + 1])
        assert text.endswith(f"-{case.outputs[0]}.")
        assert abs(place / len(prompt) - case.key["depth"]) < 0.15
    with pytest.raises(DapqError, match="paraphrase"):
        list(needle_cases(NEEDLES, HAYSTACK, **OPTIONS, paraphrased=True))
    for length, message in ((9000, "too short"), (20, "20 tokens have no room for what is asked")):
        with pytest.raises(DapqError, match=message):
            next(needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, "lengths": [length]})).prompt(llama)
    with pytest.raises(DapqError, match="too short for 9 parts"):
        list(needle_cases(NEEDLES, HAYSTACK[:1850], **{**OPTIONS, "n_offsets": 9}))


@pytest.mark.parametrize("depth", [0.0, 0.99, 1.0])
def test_facts_at_the_ends(llama, depth):
    for case in needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, "depths": [depth], "n_offsets": 1}):
        prompt = case.prompt(llama)
        place = len(prompt.head) + case.places(llama, prompt)[0]
        assert 290 < len(prompt) <= 300 and abs(place / (len(prompt) - len(prompt.tail)) - depth) < 0.15
        assert text_of(llama, prompt.tokens).count(f"-{case.outputs[0]}.") == 1


def test_the_same_again_is_measured_once(llama):
    """Policies, budgets, lengths and depths."""
    jobs = jobs_of([get_policy("streaming")] * 2, ["64", "64"])
    assert len(jobs) == 2
    cases = list(needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, "depths": [0.5, 0.5], "lengths": [300, 300]}))
    assert len(cases) == len(NEEDLES) * OPTIONS["n_offsets"]
    assert len(list(ruler.generated_cases(["single", "single"], [600, 600], 3, 0, 8))) == 3


def test_lines_of_data(tmp_path):
    """Blank lines count, but hold nothing; a text may hold what Unicode takes for the end of a line."""
    path = tmp_path / "needles.jsonl"
    fields = {"needle": "a\u2028b", "question": "", "answer_prefix": "", "answer": "4"}
    path.write_text("\n" + json.dumps(fields, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert [needle.needle for needle in read_needles(path)] == ["a\u2028b"]
    path.write_text("\n" + json.dumps({**fields, "answer": 4817}))
    with pytest.raises(DapqError, match="line 2: not a needle: answer must be a text"):
        read_needles(path)
    path.write_text("\n")
    with pytest.raises(DapqError, match="no needles in"):
        read_needles(path)


def test_several_facts(llama):
    """All of them stand in the prompt, at evenly spread depths, and are asked for."""
    cases = list(needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, "depths": [0.2], "n_offsets": 1}, n_facts=2))
    assert [case.outputs for case in cases] == [["XQ7Z", "KJ5W"], ["KJ5W", "XQ7Z"]]
    for case in cases:
        prompt = case.prompt(llama)
        places = [len(prompt.head) + place for place in case.places(llama, prompt)]
        for place, output in zip(places, case.outputs, strict=True):
            assert text_of(llama, prompt.tokens[: place + 1]).endswith(f"-{output}.")
        assert np.allclose(np.array(places) / len(prompt), [0.2, 0.7], atol=0.15)
        assert text_of(llama, prompt.tail).count(NEEDLES[0].question) == 2
    with pytest.raises(DapqError, match="as many needles"):
        list(needle_cases(NEEDLES, HAYSTACK, **OPTIONS, n_facts=3))


def test_paraphrases(llama):
    """Another question, another beginning of the answer."""
    needles = [replace(NEEDLES[0], paraphrase="which letters?", paraphrase_prefix="these letters:")]
    (case,) = needle_cases(needles, HAYSTACK, **{**OPTIONS, "depths": [0.5], "n_offsets": 1}, paraphrased=True)
    text = text_of(llama, case.prompt(llama).tail)
    assert "which letters?" in text and text.endswith("these letters:") and "the word" not in text


def test_own_paraphrases():
    """No word of a fact is in the other question but its subject, and words that mean nothing."""
    subjects = {"blue", "locker", "surveyor's", "dog", "comet", "maribor", "to"}
    empty = {"the", "is", "of", "a", "to", "from"}
    for needle in read_needles(BUILT_IN / "needles.jsonl"):
        words = set(needle.needle.lower().replace(".", "").split()) - subjects - empty
        asked = f"{needle.paraphrase} {needle.paraphrase_prefix}".lower().replace("?", "").replace(",", "").split()
        assert needle.paraphrase and needle.paraphrase_prefix and not words & set(asked)


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


@pytest.mark.parametrize("options", [{}, {"arch": "gemma2", "n_layer": 4}], ids=["llama", "windows"])
def test_snapshot(tiny_model, options):
    """What was evicted and decoded comes back, also the cells that have left a window."""
    llama = ReadingLlama(tiny_model(Spec(n_ctx=2048, **options)), n_threads=2)
    llama.read(random_tokens(300, 1), get_policy("full"), Budget.parse("100%"), n_predict=20)
    cache, snapshot = llama.kv_cache, Snapshot(llama)
    seen = cache.probe(random_tokens(8, 2), 292), cache.logits.copy(), cache.peek(10)[0]
    get_policy("snapkv").evict(cache, 64)
    assert "".join(llama.stream(10)) and cache.n_cells < 80
    for _ in range(2):
        snapshot.restore()
        assert cache.n_cells == 300 and cache.recent == random_tokens(300, 1) and llama.n_tokens == 300
        again = cache.probe(random_tokens(8, 2), 292), cache.logits, cache.peek(10)[0]
        for before, after in zip(seen[0], again[0], strict=True):
            np.testing.assert_allclose(after.attention, before.attention, rtol=0.01, atol=1e-4)
        assert (seen[1] == again[1]).all() and seen[2] == again[2]
        get_policy("snapkv").evict(cache, 64)
    llama.close()


KEY = {"task": "t", "policy": "p", "budget": "64"}


def test_full_disk_loses_no_row(tmp_path):
    path = tmp_path / "out.jsonl"
    results = Results(path)
    results.add(KEY, {"score": 1.0})
    size = path.stat().st_size
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limit[1]))
    try:
        with pytest.raises(DapqError, match="cannot write.*the rows before are kept"):
            results.add({**KEY, "row": 2}, {"score": 1.0, "answer": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.stat().st_size == size and Results(path).rows == [{**KEY, "score": 1.0}]


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("line", ["{}", "[]", "text", '{"key": {"a": 1}}', '{"needle": "a"}'])
def test_file_of_something_else(tmp_path, line, end):
    """It is left as it is."""
    path = tmp_path / "out.jsonl"
    text = json.dumps({"key": KEY, "result": {}}) + f"\n{line}{end}"
    path.write_text(text)
    if end or not line.startswith('{"key'):
        with pytest.raises(DapqError, match="line 2: not a result"):
            Results(path)
    else:
        assert len(Results(path).rows) == 1
    assert path.read_text() == text


def test_a_row_counts_once(tmp_path):
    """Also when a file was copied."""
    for name in ("a", "b"):
        results = Results(tmp_path / f"{name}.jsonl")
        results.add(KEY, {"score": 1.0})
    results.load(tmp_path / "a.jsonl")
    assert len(results.rows) == 1


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


def rows_of(task, budgets, **metrics):
    jobs = [("full", "100%"), *((policy, budget) for policy in ("fused", "dapq") for budget in budgets)]
    for (policy, budget), row in itertools.product(jobs, range(3)):
        job = {"policy": policy, "granularity": "head", "budget": budget}
        yield {"task": task, "length": 512, "depth": row / 2, "row": row, **job, **metrics}


def test_report(tmp_path):
    """A page with a table and a picture for each kind of task; a budget or two, one policy or several."""
    pytest.importorskip("matplotlib")
    for task, metrics in (("needle", {"score": 1.0}), ("ruler single", {"score": 0.5}), ("fidelity x", {"kl": 0.25})):
        results = Results(tmp_path / f"{task}.jsonl")
        for row in rows_of(task, ["64", "256", "12.5%"], **metrics):
            results.add({k: v for k, v in row.items() if k not in metrics}, metrics)
    page = write_report(tmp_path).read_text()
    pictures = re.findall(r"!\[.*\]\((.*)\)", page)
    assert len(pictures) == 3
    for picture in pictures:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert "| dapq |" in page and "100.0% (44% to 100%)" in page and "0.250 ± 0.000" in page
    with pytest.raises(DapqError, match="no results"):
        write_report(tmp_path / "nowhere")


def test_summary_is_a_table():
    (summary,) = summaries(list(rows_of("needle", ["64"], score=1.0)))
    assert summary.title == "needle, 512 tokens" and len(summary.rows) == 3
    assert all(len(line) == len(summary.headings) for line in summary.rows)
    assert len(summary.markdown.splitlines()) == 2 + 3 and summary.table.row_count == 3
