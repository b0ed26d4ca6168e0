"""Answers that are too long for one answer: groups of them answer, nothing is lost, and it ends."""

from dataclasses import dataclass, field

import pytest

from dapq_edge.chat import rounds
from dapq_edge.chat.rounds import reduce
from dapq_edge.control import UNCONTROLLED
from dapq_edge.reading.whole import N_PART, WindowAnswer, windows_of

ASKED = "What is it?"


class Characters:
    """A model without a chat template, whose tokens are characters."""

    chat_template = None
    n_ctx_train = 1024

    def __init__(self):
        self.start_tokens = [1] * 4

    def tokenize(self, text, *, special=False):
        return [ord(c) for c in text]


@dataclass
class Engine:
    """It answers each window with what `answer` makes of its lines, and knows what it was asked."""

    answer: object
    model: Characters = field(default_factory=Characters)
    asked: list = field(default_factory=list)

    def answer_windows(self, *prompts, control):
        for prompt in prompts:
            for window in windows_of(prompt, self.model.n_ctx_train):
                text = "".join(map(chr, prompt.body[window.start : window.stop])).strip()
                assert ASKED in "".join(map(chr, prompt.tail))
                self.asked.append(text)
                said = self.answer(text.split("\n"))
                yield WindowAnswer(range(window.start, window.stop), said, said.endswith("..."), False, 10)


def made(answer, texts, n_most):
    engine = Engine(answer)
    found = reduce(engine, texts, ASKED, lambda text: len(text) <= n_most, UNCONTROLLED)
    return engine, found


def texts_of(n, size=60):
    return [f"Part {i} {'x' * size}" for i in range(n)]


def first(lines):
    return lines[0][:30]


def test_what_fits_is_asked_nothing():
    engine, found = made(first, texts_of(3), 1000)
    assert (found.texts, found.n_rounds, engine.asked) == (texts_of(3), 0, [])


def test_each_text_is_in_one_group_in_its_order():
    texts = texts_of(40)
    engine, found = made(first, texts, 1000)
    assert [line for group in engine.asked for line in group.split("\n")] == texts
    assert max(map(len, engine.asked)) <= 768
    assert found.texts == [group[:30].strip() for group in engine.asked]
    assert (found.n_rounds, found.n_evaluated) == (1, 10 * len(engine.asked))
    assert (found.n_cut, found.n_silent) == (0, 0)


def test_there_are_as_many_rounds_as_are_needed():
    engine, found = made(lambda lines: f"{lines[0].split(' x')[0]} {'x' * 80}", texts_of(500), 300)
    assert found.n_rounds == 3
    assert len("\n".join(found.texts)) <= 300
    # what is no longer than an answer is not made shorter
    assert all(len(group) > N_PART for group in engine.asked)


def test_what_gets_no_shorter_is_left_as_it_was():
    texts = texts_of(40)
    engine, found = made("\n".join, texts, 1000)
    assert (found.texts, found.n_rounds) == (texts, 0)
    assert len(engine.asked) == len({*engine.asked}) > 1


def test_there_is_an_end(monkeypatch):
    monkeypatch.setattr(rounds, "N_ROUNDS", 3)
    _, found = made(lambda lines: "\n".join(line[:-1] for line in lines), texts_of(40), 10)
    assert found.n_rounds == 3
    assert found.texts == [text[:-3] for text in texts_of(40)]


@pytest.mark.parametrize(("said", "n_silent", "n_cut"), [("none", 1, 0), ("Some of it ...", 0, 1)])
def test_what_is_missing_is_counted_over_all_rounds(said, n_silent, n_cut):
    def answer(lines):
        return said if lines[0].startswith("Part 0 ") else f"{lines[0].split(' x')[0]} {'x' * 80}"

    _, found = made(answer, texts_of(500), 300)
    assert found.n_rounds > 1
    assert (found.n_silent, found.n_cut) == (n_silent, n_cut)


def test_a_text_that_is_longer_than_a_window_is_asked_in_parts():
    engine, found = made(lambda lines: lines[0][:40], ["y" * 2000, *texts_of(10)], 500)
    assert sum(group.count("y") for group in engine.asked) >= 2000
    assert found.texts[0] == "y" * 40


def test_equal_answers_are_one():
    _, found = made(lambda lines: "The same.", texts_of(40), 500)
    assert found.texts == ["The same."]
