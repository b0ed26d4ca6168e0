"""All windows of a document answer one by one; what was done once is not done again."""

from dataclasses import replace
from itertools import islice

import pytest
from helpers import templates
from helpers.llamas import Evaluated, opened
from helpers.llamas import answer as answer_of
from helpers.profiles import random_profile
from helpers.tiny import Spec

from dapq_edge.chat.rounds import reduce
from dapq_edge.control import UNCONTROLLED, Control
from dapq_edge.errors import NotReadError, UsageError
from dapq_edge.eviction.budget import Cells, Share
from dapq_edge.eviction.heads import QueryHead
from dapq_edge.eviction.policies import get_policy
from dapq_edge.prompt.chat_template import chat_prompt
from dapq_edge.prompt.extent import Extent
from dapq_edge.prompt.window import window_of
from dapq_edge.reading import whole
from dapq_edge.reading.open_model import open_model
from dapq_edge.reading.plan import ReadMode

SPEC = Spec(n_ctx=4096)
TEXT = "\n\n".join(f"The-clerk-counted-crate-{i}-and-the-gulls." for i in range(60))
FIRST, SECOND = "What-is-the-code-of-the-vault?", "Who-counted-the-crates?"


@pytest.fixture
def engine_of(tiny_model, tmp_path):
    engines = []

    def make(spec=SPEC, store="store", **options):
        folder = store and tmp_path / store
        engine = open_model(tiny_model(spec), n_threads=1, store=folder, store_type="f16", **options)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def asked(engine, question=FIRST, text=TEXT):
    return chat_prompt(engine.model, text, question)


def answers(engine, question=FIRST, **options):
    return list(engine.answer_windows(asked(engine, question), **options))


def texts(found):
    return [(answer.tokens, answer.text, answer.is_cut) for answer in found]


def test_a_window_answers_as_if_it_were_all_of_the_text(engine_of, monkeypatch):
    monkeypatch.setattr(whole, "repeats", lambda text: False)
    engine = engine_of(store=None)
    prompt, found = asked(engine), answers(engine)
    around = window_of(prompt)
    assert len(found) > 2
    assert found[0].tokens.start == 0
    assert found[-1].tokens.stop == len(prompt.body)
    for answer in found:
        window = around.head + prompt.body[answer.tokens.start : answer.tokens.stop] + around.tail
        engine.read(window, get_policy("full"), Share(100), n_predict=whole.N_PART)
        assert answer.text == "".join(engine.stream(whole.N_PART)).strip()
        assert answer.n_evaluated == len(window) + whole.N_PART
        assert answer.is_cut
        assert not answer.is_stored


def test_an_answer_that_goes_round_ends(engine_of, monkeypatch):
    monkeypatch.setattr(whole, "repeats", lambda text: len(text) >= 5)
    for answer in answers(engine_of(store=None)):
        assert 5 <= len(answer.text) < whole.N_PART
        assert not answer.is_cut


def test_an_answer_that_was_given_is_not_written_again(engine_of):
    first = answers(engine_of())
    again = answers(engine_of())
    assert texts(again) == texts(first)
    assert {(answer.n_evaluated, answer.is_stored) for answer in again} == {(0, True)}


def test_another_question_reads_no_window_again(engine_of):
    engine = engine_of()
    answers(engine)
    second, fresh = answers(engine, SECOND), answers(engine_of(store=None), SECOND)
    assert texts(second) == texts(fresh)
    n_tail = len(window_of(asked(engine, SECOND)).tail)
    for answer in second:
        assert answer.is_stored
        assert n_tail <= answer.n_evaluated <= n_tail + whole.N_PART


def test_what_was_stopped_goes_on(engine_of):
    engine, n_done = engine_of(), []

    def stop():
        if len(n_done) > 2:
            raise KeyboardInterrupt

    control = Control(lambda done, total: n_done.append((done, total)), stop)
    with pytest.raises(KeyboardInterrupt):
        answers(engine, control=control)
    assert n_done == sorted(n_done)
    found = answers(engine_of())
    assert [answer.is_stored for answer in found] == [True, True, *[False] * (len(found) - 2)]
    assert texts(found) == texts(answers(engine_of(store=None)))


def test_a_damaged_answer_is_written_again(engine_of, tmp_path):
    first = answers(engine_of())
    small = [path for path in (tmp_path / "store").glob("*.kv") if path.stat().st_size < 1000]
    assert len(small) == len(first)
    small[0].write_bytes(b"?" * small[0].stat().st_size)
    engine = engine_of()
    again = answers(engine)
    assert texts(again) == texts(first)
    assert sum(answer.n_evaluated > 0 for answer in again) == 1
    assert "damaged" in engine.take_faults()[0]


def test_an_empty_answer_is_kept(engine_of):
    store = engine_of().store.answers
    store.save([1, 2], 3, "", False)
    store.save([1, 2], 4, "Straße", True)
    assert store.load([1, 2], 3) == ("", False)
    assert store.load([1, 2], 4) == ("Straße", True)
    assert store.load([1], 3) is None


@pytest.mark.parametrize("extent", [*Extent, None])
def test_the_question_stands_last(engine_of, extent):
    engine = engine_of(store=None)
    around = window_of(asked(engine, whole.asked_of_each(SECOND, extent)))
    before, _, behind = engine.model.detokenize(around.tail).decode().replace("▁", " ").partition(SECOND)
    assert before.strip() == whole.HINTS[extent]
    assert len(behind) < 20


def test_a_question_that_leaves_no_room(engine_of):
    engine = engine_of(Spec(n_ctx=512))
    assert len(answers(engine)) > 10
    with pytest.raises(UsageError, match="the question has"):
        answers(engine, "x" * 400)


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_is_looked_at_need_not_be_read(engine_of, goes_on):
    heads = replace(random_profile(SPEC), query=(QueryHead(1, 2, 2.0, 0, 1),))
    engine, told = engine_of(heads=heads), []

    def look(chunks):
        told.extend((chunk.is_skimmed, chunk.relevance) for chunk in chunks)
        return goes_on

    # its words stand in one place, so that reading would stop there
    prompt = asked(engine, "Which-crate-7-did-the-clerk-count?")
    stats = engine.read(prompt, get_policy("fused"), Cells(200), n_predict=2, goes_on=look)
    assert stats.mode == ReadMode.SKIM
    assert stats.n_windows[0] == stats.n_windows[1] > 1
    assert len(told) == len(stats.chunks)
    assert all(is_skimmed for is_skimmed, _ in told)
    assert (stats.cells_kept > 0) is goes_on
    assert (engine.sequence.n_tokens > 0) is goes_on
    assert any(chunk.is_read for chunk in stats.chunks) is goes_on


def test_what_fits_is_read_at_once(engine_of):
    engine = engine_of(store=None)
    for budget, fits in ((200, False), (100_000, True)):
        prompt = asked(engine)
        assert engine.fits(prompt, get_policy("fused"), Cells(budget)) is fits
        assert (engine.read(prompt, get_policy("fused"), Cells(budget), n_predict=1).mode == ReadMode.FULL) is fits
    # more than the model sees
    assert not engine.fits(asked(engine, text=TEXT * 4), get_policy("full"), Share(100))


def test_rounds_that_were_stopped_go_on(engine_of, monkeypatch):
    texts, asks = TEXT.split("\n\n"), whole.asked_of_each(SECOND, None)
    monkeypatch.setattr(whole, "N_PART", 12)

    def rounds(engine, control=UNCONTROLLED):
        return reduce(engine, texts, asks, lambda text: len(text) < 100, control)

    fresh = rounds(engine_of(store=None))
    assert fresh.n_rounds > 0
    assert fresh.n_evaluated > 1000
    n_done = []

    def stop():
        if len(n_done) > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rounds(engine_of(), Control(lambda done, total: n_done.append((done, total)), stop))
    assert n_done == sorted(n_done)
    assert len({total for _, total in n_done}) == 1
    again = rounds(engine_of())
    assert 0 < again.n_evaluated < fresh.n_evaluated
    assert replace(again, n_evaluated=0) == replace(fresh, n_evaluated=0)
    assert rounds(engine_of()).n_evaluated == 0


def test_a_conversation_goes_on_behind_the_windows(tiny_model, monkeypatch):
    """Its cells, its settings and its context are as before, even if the reading was stopped."""
    with opened(tiny_model(SPEC)) as llama:
        prompt = llama.engine.model.tokenize(TEXT[:1500])
        # an answer begins as all cells have it, which are lost; what follows is from those that were kept
        prompt = [*prompt, *answer_of(llama, prompt), *llama.engine.model.tokenize(FIRST)]
        first = answer_of(llama, prompt)
        n_cells, wanted = llama.usage.n_cells, llama.engine.wanted
        for n_windows in (1, 100):
            found = llama.engine.answer_windows(asked(llama.engine))
            assert len(list(islice(found, n_windows))) > 0
            found.close()
            assert (llama.usage.n_cells, llama.usage.n_tokens, llama.engine.wanted) == (n_cells, 0, wanted)
            evaluated = Evaluated(monkeypatch)
            assert answer_of(llama, prompt) == first
            assert evaluated.take() < 100


def test_a_prompt_is_only_looked_at(tiny_model):
    """Also if what was chosen of it for another question is in the cache."""
    heads = replace(random_profile(SPEC), query=(QueryHead(1, 2, 2.0, 0, 1),))
    with opened(tiny_model(replace(SPEC, template=templates.CHATML)), heads=heads) as llama:

        def ask(question):
            messages = [{"role": "user", "content": f"{TEXT}\n\n{question}"}]
            assert not llama.fits(messages)
            return llama.create_chat_completion(messages, max_tokens=2)

        told = []

        def look(chunks):
            told.append(all(chunk.is_skimmed for chunk in chunks))
            return len(told) > 2

        assert llama.fits([{"role": "user", "content": SECOND}])
        ask("Which-crate-7-did-the-clerk-count?")
        llama.goes_on = look
        for question in (FIRST, "Which-crate-7-did-the-clerk-count?"):
            with pytest.raises(NotReadError):
                ask(question)
            assert llama.usage.n_tokens == 0
        assert ask(SECOND)["choices"]
        assert llama.usage.n_tokens > 0
        # what fits is not asked about
        llama.create_chat_completion([{"role": "user", "content": SECOND}], max_tokens=2)
        assert told == [True, True, True]
