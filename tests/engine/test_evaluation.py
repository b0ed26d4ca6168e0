"""Evaluation on tiny models: cases, snapshots, and runs that resume."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.needles import HAYSTACK, NEEDLES
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import Control, open_model
from dapq_edge.errors import DapqError
from dapq_edge.evaluation import ruler
from dapq_edge.evaluation.needle import needle_cases
from dapq_edge.evaluation.results import Results
from dapq_edge.evaluation.runner import evaluate, jobs_of
from dapq_edge.evaluation.shared import MODES, shared_cases
from dapq_edge.evaluation.shared_texts import SHAPES
from dapq_edge.eviction.budget import parse_budget
from dapq_edge.eviction.policies import get_policy

OPTIONS = {"lengths": [300], "depths": [0.1, 0.9], "n_offsets": 2, "seed": 0, "n_predict": 4}


@pytest.fixture
def engine(tiny_model):
    engine = open_model(tiny_model(Spec(n_ctx=8192)), n_threads=1)
    yield engine
    engine.close()


def text_of(engine, tokens):
    """The tiny vocabulary spells blanks as SentencePiece writes them."""
    return engine.model.detokenize(tokens, special=False).decode().replace("▁", " ")


def run(engine, results, policies=("dapq", "streaming"), budgets=("64", "50%"), bounded=False, **options):
    cases = list(needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, **options}))
    jobs = jobs_of([get_policy(name) for name in policies], budgets, bounded)
    steps = []
    evaluate(engine, cases, jobs, results, Control(lambda done, total: steps.append((done, total))))
    assert steps[-1] == (len(cases) * len(jobs),) * 2
    assert steps == sorted(steps)
    return len(cases) * len(jobs)


def is_within(engine, prompt, place, answer):
    """Whether a token is of the needle with an answer."""
    needle = next(needle for needle in NEEDLES if needle.answer == answer).needle.strip()
    start, n_before = (len(text_of(engine, prompt.tokens[:i]).partition(needle)[0]) for i in (None, place + 1))
    return start < n_before < start + len(needle)


def test_needle_cases(engine):
    cases = list(needle_cases(NEEDLES, HAYSTACK, **OPTIONS))
    assert len(cases) == len({json.dumps(case.key, sort_keys=True) for case in cases}) == 2 * 2 * 2
    for case in cases:
        prompt = case.prompt(engine)
        assert 290 < len(prompt) <= 300
        place = len(prompt.head) + case.places(engine.model, prompt)[0]
        assert is_within(engine, prompt, place, case.outputs[0])
        assert abs(place / len(prompt) - case.key["depth"]) < 0.2
    with pytest.raises(DapqError, match="paraphrase"):
        list(needle_cases(NEEDLES, HAYSTACK, **OPTIONS, paraphrased=True))
    for length, message in ((9000, "too short"), (20, "no room for what is asked in 20 tokens")):
        with pytest.raises(DapqError, match=message):
            next(needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, "lengths": [length]})).prompt(engine)
    with pytest.raises(DapqError, match="too short for 9 parts"):
        list(needle_cases(NEEDLES, HAYSTACK[:1850], **{**OPTIONS, "n_offsets": 9}))


@pytest.mark.parametrize("depth", [0.0, 0.99, 1.0])
def test_facts_at_the_ends(engine, depth):
    for case in needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, "depths": [depth], "n_offsets": 1}):
        prompt = case.prompt(engine)
        place = len(prompt.head) + case.places(engine.model, prompt)[0]
        assert 290 < len(prompt) <= 300
        assert abs(place / (len(prompt) - len(prompt.tail)) - depth) < 0.15
        assert text_of(engine, prompt.tokens).count(f"-{case.outputs[0]}.") == 1


def test_the_same_again_is_measured_once(engine):
    """Policies, budgets, lengths and depths."""
    jobs = jobs_of([get_policy("streaming")] * 2, ["64", "64"])
    assert len(jobs) == 2
    cases = list(needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, "depths": [0.5, 0.5], "lengths": [300, 300]}))
    assert len(cases) == len(NEEDLES) * OPTIONS["n_offsets"]
    assert len(list(ruler.generated_cases(["single", "single"], [600, 600], 3, 0, 8))) == 3


def test_several_facts(engine):
    """All of them stand in the prompt, at evenly spread depths, and are asked for."""
    cases = list(needle_cases(NEEDLES, HAYSTACK, **{**OPTIONS, "depths": [0.2], "n_offsets": 1}, n_facts=2))
    assert [case.outputs for case in cases] == [["XQ7Z", "KJ5W"], ["KJ5W", "XQ7Z"]]
    for case in cases:
        prompt = case.prompt(engine)
        places = [len(prompt.head) + place for place in case.places(engine.model, prompt)]
        for place, output in zip(places, case.outputs, strict=True):
            assert is_within(engine, prompt, place, output)
        assert np.allclose(np.array(places) / len(prompt), [0.2, 0.7], atol=0.2)
        assert text_of(engine, prompt.tail).count(NEEDLES[0].question) == 2
    with pytest.raises(DapqError, match="as many needles"):
        list(needle_cases(NEEDLES, HAYSTACK, **OPTIONS, n_facts=3))


def test_paraphrases(engine):
    """Another question, another beginning of the answer."""
    needles = [replace(NEEDLES[0], paraphrase="which letters?", paraphrase_prefix="these letters:")]
    (case,) = needle_cases(needles, HAYSTACK, **{**OPTIONS, "depths": [0.5], "n_offsets": 1}, paraphrased=True)
    text = text_of(engine, case.prompt(engine).tail)
    assert "which letters?" in text
    assert text.endswith("these letters:")
    assert "the word" not in text


@pytest.mark.parametrize("bounded", [False, True])
def test_a_rerun_resumes(engine, tmp_path, monkeypatch, bounded):
    """Only what is missing is measured, also after the last line was cut off; the rows are the same."""
    path = tmp_path / "out.jsonl"
    n_rows = run(engine, Results(path), bounded=bounded)
    whole = path.read_text()
    lines = whole.splitlines()
    assert len(lines) == n_rows
    path.write_text("\n".join(lines[: n_rows // 2]) + "\n" + lines[n_rows // 2][:30])
    again = Results(path)
    assert len(again.rows) == n_rows // 2
    run(engine, again, bounded=bounded)
    times = {"ttft_s"}
    assert [{k: v for k, v in row.items() if k not in times} for row in again.rows] == [
        {k: v for k, v in {**json.loads(line)["key"], **json.loads(line)["result"]}.items() if k not in times}
        for line in lines
    ]
    monkeypatch.setattr(engine, "read", lambda *_, **__: pytest.fail("everything was measured already"))
    run(engine, Results(path), bounded=bounded)


@pytest.mark.parametrize("options", [{}, {"arch": "gemma2", "n_layer": 4}], ids=["llama", "windows"])
def test_snapshot(tiny_model, options):
    """What was evicted and decoded comes back, also the cells that have left a window."""
    engine = open_model(tiny_model(Spec(n_ctx=2048, **options)), n_threads=1)
    engine.read(random_tokens(300, 1), get_policy("full"), parse_budget("100%"), n_predict=20)
    cache, state = engine.cache, engine.cache.state(of_context=True)
    seen = cache.probe(random_tokens(8, 2), 292), cache.logits.copy(), cache.peek(10)[0]
    get_policy("snapkv").evict(cache, 64)
    assert "".join(engine.stream(10))
    assert cache.n_cells < 80
    for _ in range(2):
        cache.restore(state)
        assert cache.n_cells == 300
        assert cache.sequence.recent.tolist() == random_tokens(300, 1)
        assert engine.sequence.n_tokens == 300
        again = cache.probe(random_tokens(8, 2), 292), cache.logits, cache.peek(10)[0]
        for before, after in zip(seen[0], again[0], strict=True):
            np.testing.assert_allclose(after.attention, before.attention, rtol=0.01, atol=1e-4)
        assert (seen[1] == again[1]).all()
        assert seen[2] == again[2]
        get_policy("snapkv").evict(cache, 64)
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ruler.GENERATORS)
def test_generated_ruler(engine, kind):
    """The lines stand in the text in order, and what is asked for is among them."""
    (a, b, *_) = list(ruler.generated_cases([kind], [1500], 3, 0, 8))
    (again, *_) = list(ruler.generated_cases([kind], [1500], 3, 0, 8))
    prompts = [text_of(engine, case.prompt(engine).tokens) for case in (a, b, again)]
    assert prompts[0] == prompts[2] != prompts[1]
    assert 1300 < len(a.prompt(engine)) <= 1500
    assert all(prompts[0].count(output) >= 1 for output in a.outputs)
    assert ruler.FILLER in prompts[0]
    assert len(a.outputs) == {"single": 1, "multikey": 1, "multivalue": 4, "multiquery": 4, "tracking": 5}[kind]
    with pytest.raises(DapqError, match="raise lengths"):
        next(ruler.generated_cases([kind], [50], 1, 0, 8)).prompt(engine)


@pytest.mark.parametrize("kind", SHAPES)
def test_shared_texts(engine, kind):
    """All questions are about the same text, which has their answers; the modes share it."""
    cases = list(shared_cases([kind], MODES, [900], 2, seed=0, n_answer=4))
    turns, _, requests, _ = [case.prompt(engine) for case in cases]
    text = text_of(engine, turns.tokens)
    assert 700 < len(turns) <= 900
    assert all(text.count(turn.answer) >= 1 for turn in cases[0].text.turns)
    assert turns.tokens[: len(requests)] == requests.tokens
    assert cases[0].text.turns[0].question not in text_of(engine, requests.tokens)
    assert cases[0].text != cases[1].text
    with pytest.raises(DapqError, match="no room for what is asked"):
        next(shared_cases([kind], MODES, [50], 1, seed=0, n_answer=4)).prompt(engine)


@pytest.mark.parametrize(("mode", "bounded", "reread"), [("turns", False, False), ("requests", True, True)])
def test_shared_requests_are_asked(engine, monkeypatch, mode, bounded, reread):
    """Each question is answered from what was kept of the text, or from a reading of its own."""
    read, seen = engine.read, []
    monkeypatch.setattr(
        engine,
        "read",
        lambda prompt, policy, *args, **options: seen.append(policy.name) or read(prompt, policy, *args, **options),
    )
    (case,) = shared_cases(["keys"], [mode], [600], 1, seed=0, n_answer=3, reread=reread)
    rows = evaluate(engine, [case], jobs_of([get_policy("base+question")], ["200"], bounded), Results())
    assert [row["policy"] for row in rows] == ["full", "base+question"]
    assert all(len(row["answers"]) == 4 and 0 <= row["score"] <= 1 and 0 <= row["later"] <= 1 for row in rows)
    assert seen == ["full", *["base+question"] * (5 if reread else 0)]


def test_ruler_file(engine, tmp_path):
    path = tmp_path / "rows.jsonl"
    text = "A line of text. " * 20 + "\nWhat is it? It is"
    path.write_text(json.dumps({"input": text, "outputs": ["a", "b"]}) + '\n{"input": "x"}\n')
    cases = ruler.file_cases(path, 5, 8)
    prompt = next(cases).prompt(engine)
    assert prompt.tokens == engine.model.tokenize(text, add_bos=True)
    assert text_of(engine, prompt.tail).endswith("What is it? It is")
    assert prompt.has_question
    with pytest.raises(DapqError, match="line 2: not a row of RULER"):
        next(cases)
