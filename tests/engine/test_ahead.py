"""Reading ahead: before the question is known, and without harm to the conversation that is in the cache."""

from dataclasses import replace

import pytest
from helpers.llamas import Evaluated, opened
from helpers.profiles import random_profile
from helpers.tiny import Spec

from dapq_edge.chat.conversation import Chat
from dapq_edge.chat.idle import Idle
from dapq_edge.control import Control
from dapq_edge.errors import AbortedError
from dapq_edge.eviction.heads import QueryHead
from dapq_edge.reading.ahead import Ahead

SPEC = Spec(n_ctx=32768)
LONG = "\n\n".join(f"The-clerk-counted-crate-{i}-and-the-gulls." for i in range(120))
SHORT = LONG[:1500]
QUESTION = "What-is-the-code-of-the-vault?"


@pytest.fixture
def llama_of(tiny_model, tmp_path):
    def make(store="store", **options):
        heads = replace(random_profile(SPEC), query=(QueryHead(1, 2, 2.0, 0, 1),))
        options = {"kv_budget": 300, "n_ctx": 32768, "skim": "all", "heads": heads, **options}
        return opened(tiny_model(SPEC), store=store and tmp_path / store, store_type="f16", **options)

    return make


def user(*texts):
    return {"role": "user", "content": "\n\n".join(texts)}


def answer(llama, *messages):
    result = llama.create_chat_completion(list(messages), max_tokens=6, temperature=0)
    return result["choices"][0]["message"]["content"]


class Stop:
    """Stops after some looks."""

    def __init__(self, n):
        self.n = n

    def __call__(self):
        self.n -= 1
        return self.n < 0


def test_a_question_reads_no_window_again(llama_of):
    with llama_of() as llama, llama_of(store=None) as plain:
        ahead = llama.read_ahead([user(LONG)])
        assert ahead.n_windows > 2
        assert (ahead.n_stored, ahead.faults) == (0, [])
        assert answer(llama, user(LONG, QUESTION)) == answer(plain, user(LONG, QUESTION))
        assert llama.usage.n_stored == llama.usage.n_windows[1] == ahead.n_windows
        again = llama.read_ahead([user(LONG)])
        assert again.n_stored == ahead.n_windows


def test_it_goes_on_where_it_was_stopped(llama_of):
    with llama_of() as llama:
        llama.control = Control(should_abort=Stop(8))
        with pytest.raises(AbortedError):
            llama.read_ahead([user(LONG)])
        llama.control = Control()
        ahead = llama.read_ahead([user(LONG)])
        assert 0 < ahead.n_stored < ahead.n_windows


def test_what_fits_whole_goes_into_the_cache(llama_of, monkeypatch):
    with llama_of(kv_budget=4096) as llama, llama_of(kv_budget=4096) as plain:
        expected = answer(plain, user(SHORT, QUESTION))
        evaluated = Evaluated(monkeypatch)
        assert llama.read_ahead([user(SHORT)]) == Ahead()
        n_ahead = evaluated.take()
        assert n_ahead > 0.9 * len(llama.tokenize(SHORT.encode()))
        assert answer(llama, user(SHORT, QUESTION)) == expected
        assert evaluated.take() < 100


def test_a_prompt_that_fits_whole_goes_on_where_it_was_stopped(llama_of, monkeypatch):
    """A client that gives up and tries again does not begin from zero each time."""
    with llama_of(kv_budget=4096) as llama, llama_of(kv_budget=4096) as plain:
        expected, evaluated = answer(plain, user(SHORT, QUESTION)), Evaluated(monkeypatch)
        llama.control = Control(should_abort=Stop(3))
        with pytest.raises(AbortedError):
            answer(llama, user(SHORT, QUESTION))
        n_first = evaluated.take()
        assert n_first > 500
        llama.control = Control()
        assert answer(llama, user(SHORT, QUESTION)) == expected
        n_all = len(llama.tokenize((SHORT + QUESTION).encode()))
        assert evaluated.take() < n_all - n_first + 100


@pytest.mark.parametrize("kv_budget", [300, 16384])
def test_the_conversation_goes_on(llama_of, kv_budget, monkeypatch):
    """Evicted or whole: what is in the cache is there again, and the next turn costs only its own tokens."""
    first = user("Hello-there." * 60, "Who-are-you?")
    with llama_of(kv_budget=kv_budget) as llama, llama_of(kv_budget=kv_budget) as plain:
        said = {"role": "assistant", "content": answer(llama, first)}
        assert answer(plain, first) == said["content"]
        before = llama.kv_cache.sequence
        ahead = llama.read_ahead([first, said, user(LONG)])
        assert (ahead.n_windows > 0) == (kv_budget == 300)
        assert llama.kv_cache.sequence.n_tokens >= before.n_tokens
        evaluated = Evaluated(monkeypatch)
        assert answer(llama, first, said, user("And-why?")) == answer(plain, first, said, user("And-why?"))
        assert evaluated.take() < 2 * 100


def test_without_a_store_or_room_nothing_is_read(llama_of, monkeypatch):
    with llama_of(store=None) as llama, llama_of(cache_ram=0) as small:
        assert llama.read_ahead([user(LONG)]) == Ahead()
        answer(small, user("Hello-there."))
        evaluated = Evaluated(monkeypatch)
        # the conversation in the cache would be lost
        assert small.read_ahead([user(LONG)]) == Ahead()
        assert evaluated.take() == 0


def test_a_chat_reads_while_its_user_types(llama_of):
    with llama_of() as llama:
        chat, idle = Chat(llama, n_predict=4, temperature=0), Idle(llama)
        chat.add_document(LONG)
        idle.start(chat.read_ahead)
        idle._thread.join()
        ahead = idle.stop()
        assert ahead.n_windows > 2
        list(chat.ask(QUESTION))
        assert llama.usage.n_stored == ahead.n_windows
        # what was read is not read again
        idle.start(chat.read_ahead)
        idle._thread.join()
        assert idle.stop().n_stored == ahead.n_windows


def test_a_question_does_not_wait_for_it(llama_of):
    with llama_of() as llama:
        chat, idle = Chat(llama, n_predict=4, temperature=0), Idle(llama)
        assert idle.stop() is None
        chat.add_document(LONG * 5)
        idle.start(chat.read_ahead)
        assert idle.stop() is None
        assert llama.control == Control()
        list(chat.ask(QUESTION))


def test_what_goes_wrong_is_left_to_the_question(llama_of):
    def fail():
        raise AbortedError

    with llama_of() as llama:
        idle = Idle(llama)
        idle.start(fail)
        idle._thread.join()
        assert idle.stop() is None
