"""The request in a text: where it stands, and which of its sentences ask."""

from itertools import pairwise

import pytest

from dapq_edge.prompt.paragraphs import level_of, question_in, refers_back, split_text
from dapq_edge.prompt.tables import find_tables

ASK = "What is the code of the office?"
LONG = " ".join(["The mill counted the crates before noon, and a clerk closed the gate."] * 5)
DOC = "\n\n".join([LONG] * 8)
RULES = "Instructions:\n- Use only the text.\n- Be brief."
STORY = " ".join(["I went there on a day of rain, and found nobody."] * 30)


def request(text, **options):
    """What is wanted, piece by piece; a token is four characters."""
    spans = split_text(text, lambda start, stop: stop // 4 - start // 4, **options)
    assert spans[0].start == 0
    assert spans[-1].stop == len(text)
    assert all(before.stop == after.start for before, after in pairwise(spans))
    return [text[span.start : span.stop].strip() for span in spans if span.is_request]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{DOC}\n\n{ASK}", [ASK]),
        (f"{DOC}\n\n{ASK}\n\nThanks in advance!", [f"{ASK}\n\nThanks in advance!"]),
        (f"{DOC}\n\n{ASK}\n\n{RULES}", [f"{ASK}\n\n{RULES}"]),
        (f"{DOC}\n\n{ASK}\n\n{LONG[:200]}", [f"{ASK}\n\n{LONG[:200]}".strip()]),
        (f"{DOC}\n\nI am new here.\n\n{ASK}\n\nPlease be brief.", [f"I am new here.\n\n{ASK}\n\nPlease be brief."]),
        (f"Read the text and answer: {ASK}\n\n{DOC}", [f"Read the text and answer: {ASK}"]),
        (f"{ASK}\n{DOC}", [ASK]),
        (f"{ASK}\n\n{DOC}\n\nAnswer the question above.", [ASK, "Answer the question above."]),
        (f"{DOC}\n\n{ASK}\n\n{DOC}", [ASK]),
        (f"Document 1:\n{DOC}\n\n{ASK}\n\nDocument 2:\n{DOC}", [ASK]),
        (f"<text>\n{DOC}\n</text>\n<question>{ASK}</question>", [f"<question>{ASK}</question>"]),
        (f"<question>{ASK}</question>\n<text>\n{DOC}\n</text>", [f"<question>{ASK}</question>"]),
        (f"## Context\n{DOC}\n\n## Question\n{ASK}\n\n## Answer", [f"## Question\n{ASK}\n\n## Answer"]),
        (f"Context:\n-----\n{DOC}\n-----\nQuery: {ASK}\nAnswer:", [f"Query: {ASK}\nAnswer:"]),
        (f"{DOC}\n\nWhy?", ["Why?"]),
        (f"{DOC}\n\nTell me the code.", ["Tell me the code."]),
        (f"{DOC}\n\nWie lautet der Code?\n\nDanke!", ["Wie lautet der Code?\n\nDanke!"]),
        (f"{DOC}\n\n代码是什么？", ["代码是什么？"]),  # noqa: RUF001
        (f"{DOC}\n{ASK}", [ASK]),
        (f"{' '.join(DOC.split())} {ASK}", [ASK]),
        (f"{DOC}\n\n{STORY} {ASK} It is urgent.", [f"{STORY} {ASK} It is urgent."]),
        (f"Text: A door.\nQuestion: What?\nAnswer: x\n\nText: {DOC}\nQuestion: {ASK}\nA:", [f"Question: {ASK}\nA:"]),
    ],
)  # fmt: skip
def test_layouts(text, expected):
    assert request(text) == expected
    for line_break in ("\r\n", "\r"):
        other = text.replace("\n", line_break)
        assert request(other) == [part.replace("\n", line_break) for part in expected]


def test_a_text_that_asks_nothing():
    assert request(DOC) == []
    assert request(DOC, must_ask=True) == [LONG]
    assert request(f"{DOC}\n\nharbour code") == []
    assert request(f"{DOC}\n\nharbour code", must_ask=True) == ["harbour code"]
    # without paragraphs, lines and sentences, the last words
    assert len(request("word " * 4000, must_ask=True)[0]) == pytest.approx(4 * 64, abs=8)


def test_a_text_about_questions():
    """Of many questions between paragraphs, only the one at the end is a request."""
    text = "\n\n".join(f"{LONG}\n\nWhat is thing {i}?" for i in range(9)) + f"\n\n{LONG}"
    assert request(text) == [f"What is thing 8?\n\n{LONG}"]
    assert request(f"{text}\n\n{DOC}") == [f"{LONG}\n\nWhat is thing 0?"]
    assert request(f"{DOC}\n\n{text}\n\n{DOC}") == []


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("What is it?", 2),
        ("A text. What is it? Another one.", 2),
        ("- Use only the text.", 1),
        ("Please be brief.", 1),
        ("The mill stands.", 0),
        ("", 0),
    ],
)
def test_levels(text, level):
    assert level_of(text) == level


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"\n\n{ASK}", ASK),
        (f"I am new. {ASK} It is urgent.", ASK),
        (f"Hello!\n\n{ASK}\n\nThanks!", ASK),
        ("Who? And where? Now.", "Who? And where?"),
        ("Tell me the code.", "Tell me the code."),
        (f"Query: {ASK}\nAnswer:", ASK),
        (f"\n<question>{ASK}</question>", ASK),
        (f"### Question\n{ASK}", ASK),
        ("这是一个故事。小猫在哪里？谢谢。", "小猫在哪里？"),  # noqa: RUF001
        ("  x ", "x"),
        ("", ""),
    ],
)
def test_question_in(text, expected):
    first, last = question_in(text)
    assert text[first : last + 1] == expected


@pytest.mark.parametrize("text", ["What is its phone number?", "And why?", "Who wrote this?", "它是什么？"])  # noqa: RUF001
def test_a_question_that_refers_back(text):
    assert refers_back(text)


@pytest.mark.parametrize("text", ["What is the phone number of the keeper?", "Itemise the bill of the mill please."])
def test_a_question_of_its_own(text):
    assert not refers_back(text)


MARKDOWN = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
CSV = 'id,name,shelf\n1,Part 1,2\n2,Part 2,3\n3,"a, b",4\n4,Part 4,5'
HTML = "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"


@pytest.mark.parametrize(
    ("table", "header"),
    [
        (MARKDOWN, "| a | b |\n|---|---|"),
        (CSV, "id,name,shelf"),
        (CSV.replace(",", "\t").replace('"a\t b"', "a"), "id\tname\tshelf"),
        (HTML, "<table><tr><th>a</th></tr>"),
        (HTML.upper(), "<TABLE><TR><TH>A</TH></TR>"),
    ],
)
def test_tables(table, header):
    text = f"Some words, and more.\n\n{table}\n\nThe end."
    ((start, end, stop),) = find_tables(text)
    assert (text[start:end], text[start:stop]) == (header, table)


def test_no_tables():
    assert find_tables(DOC) == find_tables("") == []
    assert find_tables("\n".join(["a, b, and c", "d, e", "f", "g, h, i, j"])) == []
    assert (
        find_tables("\n".join(["It rained, and the mill", "stood still, so that we", "went on, or tried to,"] * 3))
        == []
    )


def test_a_long_list_of_instructions_behind_the_question():
    rules = "Instructions:\n" + "\n".join(
        f"- Rule {i}: no word of list {i} is used, nor what it means." for i in range(14)
    )
    assert request(f"{DOC}\n\n{ASK}\n\n{rules}") == [f"{ASK}\n\n{rules}"]
