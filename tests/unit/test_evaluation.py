"""Evaluation without a model: data, results that are kept, and statistics."""

import itertools
import json
import re
import resource

import numpy as np
import pytest
from helpers.limits import limited
from scipy.stats import mannwhitneyu

from dapq_edge.calibration.calibrate import BUILT_IN
from dapq_edge.calibration.needles import read_needles
from dapq_edge.calibration.questions import Question
from dapq_edge.chat.sources import Source
from dapq_edge.documents.document import Document, Page
from dapq_edge.errors import DapqError, UsageError
from dapq_edge.evaluation import ruler
from dapq_edge.evaluation.absent import Group
from dapq_edge.evaluation.citations import is_real
from dapq_edge.evaluation.estimates import auroc, mean, wilson
from dapq_edge.evaluation.made import THINGS, made_document, made_questions
from dapq_edge.evaluation.report import write_report
from dapq_edge.evaluation.results import Results, Row
from dapq_edge.evaluation.summary import group_by, of_full, summaries
from dapq_edge.reading.citations import Citation


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
    with pytest.raises(DapqError, match="no line is a needle"):
        read_needles(path)


def test_own_paraphrases():
    """No word of a fact is in the other question but its subject, and words that mean nothing."""
    subjects = {"blue", "locker", "surveyor's", "dog", "comet", "maribor", "to"}
    empty = {"the", "is", "of", "a", "to", "from"}
    for needle in read_needles(BUILT_IN / "needles.jsonl"):
        words = set(needle.needle.lower().replace(".", "").split()) - subjects - empty
        asked = f"{needle.paraphrase} {needle.paraphrase_prefix}".lower().replace("?", "").replace(",", "").split()
        assert needle.paraphrase
        assert needle.paraphrase_prefix
        assert not words & set(asked)


KEY = {"task": "t", "policy": "p", "budget": "64"}


def test_full_disk_loses_no_row(tmp_path):
    path = tmp_path / "out.jsonl"
    results = Results(path)
    results.add(KEY, {"score": 1.0})
    size = path.stat().st_size
    with (
        limited(resource.RLIMIT_FSIZE, size + 10),
        pytest.raises(DapqError, match=r"cannot write.*the rows before are kept"),
    ):
        results.add({**KEY, "row": 2}, {"score": 1.0, "answer": "x" * 100})
    assert path.stat().st_size == size
    assert Results(path).rows == [{**KEY, "score": 1.0}]


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


def test_variable_tracking_is_solvable():
    """Following the assignments gives the outputs."""
    sample = ruler.variable_tracking(np.random.default_rng(3))
    values = {}
    for line in sample.lines:
        _, name, _, value = line.rstrip(".").replace("= VAR ", "= ").split()
        values[name] = values.get(value, value)
    wanted = sample.answer_prefix.split()[-2]
    assert [name for name, value in values.items() if value == wanted] == sample.outputs


def test_score_of_full():
    """Prompts that the full cache does not answer do not count."""

    def row(i, policy, score):
        return Row({"task": "t", "row": i, "policy": policy}, {"score": score})

    rows = [row(i, "full", full) for i, full in enumerate([1, 1, 0, 0.5])]
    rows += [row(i, "x", score) for i, score in enumerate([1, 0, 1, 0.5])]
    estimate = of_full(rows, group_by(rows, ["policy"])[("x",)])
    assert estimate.mean == pytest.approx(2 / 3)
    assert 0 < estimate.low < estimate.mean < estimate.high < 1
    assert of_full([], rows) is None


def test_whatever_a_task_calls_its_prompts_tells_them_apart():
    """Rows are paired with the full cache's by all fields of their key but those of the job."""
    rows = []
    for language, full, score in (("de", 1.0, 1.0), ("fr", 0.0, 1.0)):
        key = {"task": "t", "language": language, "budget": "64"}
        rows += [Row(key | {"policy": "full"}, {"score": full}), Row(key | {"policy": "x"}, {"score": score})]
    x = [row for row in rows if row["policy"] == "x"]
    assert rows[0].prompt == rows[1].prompt != rows[2].prompt
    assert of_full(rows, x) == wilson(1.0, 1)


def test_intervals():
    assert wilson(1.0, 10).high == 1
    assert wilson(1.0, 10).low == pytest.approx(0.722, abs=1e-3)
    assert wilson(0.5, 100).low == pytest.approx(0.404, abs=1e-3)
    estimate = mean([1, 2, 3])
    assert estimate.mean == 2
    assert estimate.high - 2 == pytest.approx(1.96 / np.sqrt(3))
    assert mean([1]).high == np.inf


def rows_of(task, budgets, **metrics):
    jobs = [("full", "100%"), *((policy, budget) for policy in ("fused", "dapq") for budget in budgets)]
    for (policy, budget), row in itertools.product(jobs, range(3)):
        job = {"policy": policy, "granularity": "head", "budget": budget}
        yield Row({"task": task, "length": 512, "depth": row / 2, "row": row, **job}, metrics)


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
    assert "| dapq |" in page
    assert "100.0% (44% to 100%)" in page
    assert "0.250 ± 0.000" in page
    with pytest.raises(DapqError, match="no results"):
        write_report(tmp_path / "nowhere")


def test_summary_is_a_table():
    (summary,) = summaries(list(rows_of("needle", ["64"], score=1.0)))
    assert summary.title == "needle, 512 tokens"
    assert len(summary.rows) == 3
    assert all(len(line) == len(summary.headings) for line in summary.rows)
    assert len(summary.markdown.splitlines()) == 2 + 3
    assert summary.table.row_count == 3


def test_how_well_a_number_tells_apart():
    assert auroc([3, 2], [1, 2]) == (3 + 0.5) / 4
    assert auroc([1, 1], [1]) == 0.5
    assert auroc([True, True], [False]) == 1
    rng = np.random.default_rng(0)
    above, below = rng.normal(0.5, 1, 40), rng.normal(0, 1, 30)
    assert auroc(above, below) == pytest.approx(mannwhitneyu(above, below).statistic / (40 * 30))


def cited(i, **result):
    return Row({"task": "citations", "policy": "fused", "budget": "512", "pages": 9, "question": i}, result)


def test_only_right_answers_have_sources_that_can_be_right():
    """Made up sources are counted for all."""
    right = {"is_right": True, "right_page": True, "right_quote": False, "bm25_page": True, "n_cited": 2}
    rows = [cited(0, **right, n_invented=0, citing=0.01), cited(1, is_right=False, n_invented=2, citing=0.03)]
    (summary,) = summaries(rows)
    assert summary.title == "citations, 9 pages"
    (line,) = summary.rows
    named = dict(zip(summary.headings, line, strict=True))
    assert named["right answers"].startswith("50.0%")
    assert named["of these: page"].startswith("100.0%")
    assert named["sentence"].startswith("0.0%")
    assert named["BM25's page"].startswith("100.0%")
    assert named["sources of it"] == "2.00"
    assert (named["invented"], named["citing, of the time"]) == ("2", "2.0%")


def absent(fact, i, relevance, coverage, is_said):
    key = {"task": "absent", "policy": "fused", "budget": "", "asked": "other", "length": 512, "fact": fact}
    return Row(key | {"question": i}, {"relevance": relevance, "coverage": coverage, "is_said": is_said})


def test_what_is_absent_is_compared_with_what_is_there():
    rows = [absent("there", i, 0.8 + i / 10, 0.2, False) for i in range(2)]
    rows += [absent("absent", i, 0.1 + 0.8 * i, 0.2, i == 0) for i in range(2)]
    (summary,) = summaries(rows)
    assert summary.title == "absent, 512 tokens, asked in other words"
    there, not_there = summary.rows
    assert there[:6] == ["there", "2", "0.85 (0.81 to 0.90)", "", "0.20 (0.20 to 0.20)", ""]
    assert not_there[:2] == ["not there", "2"]
    assert (not_there[3], not_there[5]) == ("0.625", "0.500")
    assert there[6].startswith("0.0%")
    assert not_there[6].startswith("50.0%")


def test_a_question_is_of_one_half_wherever_its_fact_stands():
    group = Group("other", [Question(str(i), "?", "") for i in range(3)], {})
    halves = [group.half_of(i) for i in range(9)]
    assert halves == 3 * ["choose", "report", "choose"]
    chosen, reported = (group.numbers(9, half) for half in ("choose", "report"))
    assert chosen | reported == group.numbers(9, "all") == set(range(9))
    assert reported == {1, 4, 7}


SENTENCES = "".join(f"The gulls over quay {i} wait for a boat. " for i in range(300))


def test_a_made_document_has_a_fact_on_each_page():
    rng = np.random.default_rng(0)
    questions = made_questions(rng)
    assert len({question.fact for question in questions}) == len(questions) == 100
    for one, other in zip(questions, questions[len(THINGS) :], strict=False):
        # another town, the same thing
        assert one.fact.split()[1] == other.fact.split()[1]
        assert one.fact.split()[3] != other.fact.split()[3]
    document = made_document(SENTENCES, questions[:5], rng)
    assert len(document.pages) == 5
    for page, question in zip(document.pages, questions, strict=False):
        assert document.text_of(page).count(question.fact) == document.text.count(question.fact) == 1
        assert question.answer in question.fact
    with pytest.raises(UsageError, match="pages 100: the text has 12,190 characters, room for 9: give"):
        made_document(SENTENCES, questions, rng)


@pytest.mark.parametrize(
    ("page", "quote", "is_there"),
    [(1, "It rains.", True), (0, "It rains.", False), (1, "It snows.", False), (None, "It rains.", False)],
)
def test_a_source_is_real_if_its_quote_stands_on_its_page(page, quote, is_there):
    document = Document.of("a.pdf", [("p. 1", "Sun."), ("p. 2", "Wind. It\nrains.")], "\n\n")
    pages = {0: document.pages[0], 1: document.pages[1], None: Page("a.pdf", "p. 3", 0, 99)}
    citation = Citation((0, 1), 0, 1, range(0, 1), 1.0)
    assert is_real(Source(1, pages[page], quote, citation), document) == is_there
