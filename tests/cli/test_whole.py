"""`dapq-edge ask --whole`: what is printed where, of answers that windows gave."""

import json

import pytest
from helpers.cli import TEXT, assert_usage, dapq_edge
from helpers.whole import windows_say

from dapq_edge.cli import asking
from dapq_edge.reading import engine
from dapq_edge.reading.whole import WindowAnswer

LIST, COUNT, SUMMARY = "List all ships.", "How many ships are mentioned?", "Summarize it."


@pytest.fixture
def long_doc(tmp_path):
    path = tmp_path / "long.md"
    ships = "The Ada, the Bee, the Cod, the Dab and the Eel sail.\n\n"
    path.write_text("".join(f"# Part {i}\n\n{(ships + TEXT[:45]) * 16}\n\n" for i in range(1, 9)))
    return path


@pytest.fixture
def said(monkeypatch):
    """What windows answer, one after the other; None is Ctrl-C."""
    return windows_say(monkeypatch, KeyboardInterrupt())


def whole(model, doc, question, *args, whole="on"):
    options = "--kv-budget", 200, "--whole", whole, "-n", 4
    return dapq_edge("ask", "-m", model, "--doc", doc, *options, question, *args)


def test_a_list_is_what_was_joined(model, long_doc, said):
    result = whole(model, long_doc, LIST)
    assert result.returncode == 0
    assert [line.split(": ")[-1] for line in result.stdout.decode().splitlines()] == ["The Ada", "The Bee", "The Cod"]
    assert result.stdout.startswith(b"Part 1")
    assert b"3 different items" in result.stderr
    data = json.loads(whole(model, long_doc, LIST, "--json").stdout)
    assert list(data) == [
        "answer",
        "count",
        "left_out",
        "parts",
        "coverage",
        "not_found",
        "partial",
        "notes",
        "policy",
        "reading",
        "prompt_tokens",
        "tokens_evaluated",
        "windows_read",
        "windows",
        "windows_stored",
        "windows_cut",
        "rounds",
        "whole_s",
        "ttft_s",
        "decode_tps",
        "rss_mib",
    ]
    assert data["answer"] == "The Ada\nThe Bee\nThe Cod"
    assert (data["reading"], data["partial"], data["not_found"], data["count"]) == ("whole", False, False, 3)
    assert [part["windows"] for part in data["parts"]] == [[1], [1, 3], [3]]
    assert data["parts"][0]["pages"][0] == {"file": str(long_doc), "page": "Part 1"}
    assert (data["windows_read"], data["windows_stored"], data["tokens_evaluated"]) == (3, 1, 30)


def test_what_is_not_there_is_left_out_of_a_list(model, long_doc, said):
    """Not of what is no copy of the text."""
    said[1] = "The Titanic\nThe Cod"
    for question, n_left_out in ((LIST, 1), (COUNT, 1), (SUMMARY, 0)):
        result = whole(model, long_doc, question, "--json")
        data = json.loads(result.stdout)
        assert (data["left_out"], data["count"]) == (n_left_out, 4 - n_left_out)
        line = b"items that are left out, as their words do not stand where they are said to: 1"
        assert (line in result.stderr) == (n_left_out > 0)


def test_how_many_is_counted_where_all_is_asked(model, long_doc, said):
    assert whole(model, long_doc, "How many ships have sails?").stdout == b"3\n"


def test_items_that_are_left_out_are_not_nothing(model, long_doc, said):
    said[:] = ["The Titanic", "none"]
    result = whole(model, long_doc, LIST, "--json")
    assert b"no window of the document has anything" not in result.stderr
    assert json.loads(result.stdout)["not_found"] is False


def test_what_fits_is_read_at_once_and_says_so(model, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("The Ada sails.")
    result = dapq_edge("ask", "-m", model, "--doc", path, "--whole", "on", "-n", 2, LIST)
    assert b"the document fits the budget, and is read at once" in result.stderr


def test_code_counts(model, long_doc, said):
    result = whole(model, long_doc, COUNT)
    assert result.stdout == b"3\n"
    assert "The Ada" in result.stderr.decode()
    assert json.loads(whole(model, long_doc, COUNT, "--json").stdout)["answer"] == "3"


@pytest.mark.parametrize("question", [SUMMARY, "What sails?"])
def test_anything_else_is_written_over_the_parts(model, long_doc, said, question):
    result = whole(model, long_doc, question)
    assert "The Ada" in result.stderr.decode()
    assert "The Ada" not in result.stdout.decode("utf-8", "replace")
    data = json.loads(whole(model, long_doc, question, "--json").stdout)
    assert data["answer"] == result.stdout.decode("utf-8", "replace").strip()
    assert data["tokens_evaluated"] > 30
    # what windows answered is no quote of the document
    assert "sources" not in data


def test_nothing_is_found(model, long_doc, said):
    said[:] = ["none", "", "The text does not say it."]
    for question, stdout in ((LIST, b""), (COUNT, b"0\n"), (SUMMARY, b"")):
        result = whole(model, long_doc, question)
        assert result.stdout == stdout
        assert b"no window of the document has anything about this" in result.stderr
    assert json.loads(whole(model, long_doc, LIST, "--json").stdout)["not_found"] is True


def test_an_answer_that_was_cut_is_said(model, long_doc, said):
    said[1] = "The Dab\nThe Eel and ..."
    assert b"windows had more to say than 96 tokens" in whole(model, long_doc, LIST).stderr
    data = json.loads(whole(model, long_doc, LIST, "--json").stdout)
    assert (data["partial"], data["windows_cut"]) == (True, 1)


def test_parts_that_do_not_fit_are_joined_in_rounds(model, long_doc, monkeypatch):
    """Each part is asked again, in one group of them."""
    asked = []

    def answer_windows(cache, model, prompt, windows, store, control):
        text = model.detokenize(prompt.body).decode().replace("▁", " ")
        if "Part 8" in text:
            said = "\n".join(f"The ship {i} left the harbour." for i in range(90))
        else:
            asked.append(text)
            said = f"They left in round {len(asked)}."
        yield WindowAnswer(range(0, 200), said, False, False, 10)

    monkeypatch.setattr(engine, "answer_windows", answer_windows)
    result = whole(model, long_doc, SUMMARY, "--json")
    data = json.loads(result.stdout)
    assert (data["partial"], data["rounds"], data["count"]) == (False, 1, 90)
    assert b"the parts are longer than the budget: groups of them answered first (rounds: 1)" in result.stderr
    assert len(asked) > 1
    assert all(f"The ship {i} left" in " ".join(asked) for i in range(90))
    assert data["tokens_evaluated"] > 10 * (1 + len(asked))
    assert b"rounds over them: 1" in whole(model, long_doc, SUMMARY).stderr


def test_parts_that_get_no_shorter_are_said(model, long_doc, said):
    said[:] = ["\n".join(f"The ship {i * 100 + j} left the harbour." for j in range(40)) for i in range(3)]
    result = whole(model, long_doc, SUMMARY, "--json")
    assert b"the parts have no room in the budget" in result.stderr
    data = json.loads(result.stdout)
    assert (data["partial"], data["rounds"]) == (True, 0)


def test_ctrl_c(model, long_doc, said):
    said[1] = None
    result = whole(model, long_doc, LIST)
    assert result.returncode == 130
    assert [line.split(": ")[-1] for line in result.stdout.decode().splitlines()] == ["The Ada", "The Bee"]
    assert b"the same command goes on where it was" in result.stderr
    result = whole(model, long_doc, SUMMARY, "--json")
    data = json.loads(result.stdout)
    assert result.returncode == 130
    assert (data["partial"], data["answer"], data["windows_read"]) == (True, "", 1)
    assert data["coverage"]["unseen"]


def test_real_windows(model, long_doc):
    first, again = (json.loads(whole(model, long_doc, LIST, "--json").stdout) for _ in range(2))
    assert first["windows_read"] == first["windows"] == again["windows_stored"] > 1
    assert again["tokens_evaluated"] == 0 < first["tokens_evaluated"]
    assert again["parts"] == first["parts"]
    assert not first["coverage"]["unseen"] + first["coverage"]["partly"]


@pytest.mark.parametrize("is_flat", [True, False])
def test_auto(model, long_doc, said, monkeypatch, is_flat):
    """The words of a question and what it finds decide together."""
    monkeypatch.setattr(asking, "is_flat", lambda chunks: is_flat)
    result = whole(model, long_doc, LIST, whole="auto")
    note = "this asks for all of the document: each of its"
    assert (note in result.stderr.decode()) is is_flat
    data = json.loads(whole(model, long_doc, LIST, "--json", whole="auto").stdout)
    assert data["reading"] == ("whole" if is_flat else "skim")
    assert data["partial"] is not is_flat
    data = json.loads(whole(model, long_doc, "Who sails?", "--json", whole="auto").stdout)
    assert (data["reading"], data["partial"]) == ("skim", False)


def test_a_part_says_that_it_is_one(model, long_doc):
    note = b"this asks for all of the document, and is answered from a part of it"
    assert note in whole(model, long_doc, LIST, whole="off").stderr
    assert note not in whole(model, long_doc, "Who sails?", whole="off").stderr
    assert json.loads(whole(model, long_doc, LIST, "--json", whole="off").stdout)["partial"] is True


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_what_fits_is_read_at_once(model, doc, mode):
    result = dapq_edge("ask", "-m", model, "--doc", doc, "--whole", mode, "-n", 2, "--json", LIST)
    data = json.loads(result.stdout)
    assert (data["reading"], data["partial"]) == ("full", False)


def test_it_needs_a_question(model, long_doc):
    result = dapq_edge("ask", "-m", model, "--doc", long_doc, "--whole", "on")
    assert result.returncode == 2
    assert b"--whole" in result.stderr
    assert_usage(dapq_edge("ask", "-m", model, "--doc", long_doc, "--whole", "maybe", LIST), "--whole")
