"""Questions about all of the documents in `dapq-edge chat`."""

import json
import re

import pytest
from helpers import templates
from helpers.cli import TEXT, assert_one_line, dapq_edge
from helpers.tiny import Spec
from helpers.whole import windows_say

from dapq_edge.chat import asking
from dapq_edge.reading import engine

LIST, COUNT, SUMMARY = "List all ships.", "How many ships are mentioned?", "Summarize it."
NOTE = "this asks for all of the document: each of its"
PART = "this asks for all of the document, and is answered from a part of it: /whole asks all"


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(Spec(n_ctx=4096, template=templates.CHATML))


@pytest.fixture
def doc(tmp_path):
    path = tmp_path / "ships.md"
    ships = "The Ada, the Bee, the Cod, the Dab and the Eel sail.\n\n"
    path.write_text("".join(f"# Part {i}\n\n{(ships + TEXT[:45]) * 4}\n\n" for i in range(1, 6)))
    return path


@pytest.fixture
def said(monkeypatch):
    """What windows answer, one after the other."""
    monkeypatch.setattr(asking, "is_flat", lambda chunks: True)
    return windows_say(monkeypatch, KeyboardInterrupt())


def chat(model, lines, *args):
    options = "-n", 4, "--kv-budget", 200, *args
    result = dapq_edge("chat", "-m", model, *options, stdin="\n".join(lines).encode())
    return result.returncode, result.stdout.decode("utf-8", "replace"), result.stderr.decode()


def test_a_list(model, doc, said):
    code, out, error = chat(model, [LIST, "/sources"], "--doc", doc)
    assert code == 0, error
    assert [line.split(": ")[-1] for line in out.splitlines()] == ["The Ada", "The Bee", "The Cod"]
    assert out.startswith("Part 1")
    assert error.count(NOTE) == 1
    assert PART not in error
    # with all pages that are known by now
    assert re.search(r"^Part 1, .*: The Bee$", error, re.MULTILINE)
    assert "not looked at" in error


def test_a_count_and_a_summary(model, doc, said):
    code, out, error = chat(model, [COUNT], "--doc", doc)
    assert (code, out) == (0, "3\n"), error
    assert "The Cod" in error
    code, out, error = chat(model, [SUMMARY, "/kept"], "--doc", doc)
    assert code == 0, error
    assert "The Cod" in error
    # what was written over the parts is in the cache
    assert "user\nThe Ada\nThe Bee\nThe Cod\n\nSummarize it." in out.replace("▁", " ")


@pytest.mark.parametrize(
    ("whole", "question", "is_asked"),
    [("auto", LIST, True), ("auto", "Who sails?", False), ("on", "Who sails?", True), ("off", LIST, False)],
)
def test_when_all_is_asked(model, doc, said, whole, question, is_asked):
    _, out, error = chat(model, [question], "--doc", doc, "--whole", whole)
    assert ("The Cod" in out + error) is is_asked
    assert (NOTE in error) is (is_asked and whole == "auto")
    assert (PART in error) is (whole == "off")


def test_what_stands_out_is_answered_from_a_part(model, doc, said, monkeypatch):
    monkeypatch.setattr(asking, "is_flat", lambda chunks: False)
    _, out, error = chat(model, [LIST], "--doc", doc)
    assert "The Cod" not in out
    assert PART in error


def test_one_question_is_asked_of_all(model, doc, said, tmp_path):
    more = tmp_path / "more.txt"
    more.write_text("The Fox and the Gnu sail.")
    _, _, error = chat(model, ["/whole Who sails?"], "--doc", doc, "--doc", more, "--whole", "off")
    assert f"{doc}, Part 1" in error
    assert "The Cod" in error
    assert NOTE not in error
    _, _, error = chat(model, ["/whole Who sails?"], "--doc", more)
    assert "the document fits the budget, and is read at once" in error
    assert "The Cod" not in error
    for line, words in (("/whole", "needs a question"), ("/whole Why?", "there are none")):
        assert_one_line(dapq_edge("chat", "-m", model, stdin=line.encode()), 2, words)


def test_a_conversation_goes_on_behind_it(model, doc, said, tmp_path):
    """It knows the list, and is saved."""
    saved = tmp_path / "a.session"
    code, _, error = chat(
        model, ["What?", LIST, "And then?", "/kept"], "--doc", doc, "--session", saved, "--whole", "auto"
    )
    assert code == 0, error
    code, out, error = chat(model, [LIST], "--doc", doc, "--session", saved)
    assert code == 0, error
    assert "3 turns" in error
    assert out.count("The Cod") == 1
    code, out, error = chat(model, ["/sources"], "--session", saved)
    assert "4 turns" in error


def test_real_windows_are_answered_once(model, doc, monkeypatch):
    monkeypatch.setattr(asking, "is_flat", lambda chunks: True)
    evaluated = []
    answer_windows = engine.answer_windows

    def counted(*args):
        for answer in answer_windows(*args):
            evaluated.append(answer.n_evaluated)
            yield answer

    monkeypatch.setattr(engine, "answer_windows", counted)
    first = chat(model, [LIST], "--doc", doc)
    n_windows = len(evaluated)
    assert n_windows > 1
    assert min(evaluated) > 0
    second = chat(model, [LIST], "--doc", doc)
    assert second[1] == first[1]
    assert evaluated[n_windows:] == [0] * n_windows
    data = json.loads(
        dapq_edge("ask", "-m", model, "--doc", doc, "--kv-budget", 200, "--whole", "on", "--json", LIST).stdout
    )
    # it is the same question to the same windows
    assert data["tokens_evaluated"] == 0
