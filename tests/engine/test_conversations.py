"""Conversations that were left: each goes on where it was, for the cost of its own new tokens."""

import llama_cpp
import pytest
from helpers.llamas import Evaluated, answer, opened
from helpers.processes import run_job
from helpers.profiles import random_profile
from helpers.templates import CHATML
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.store.conversations import N_LOST, Conversations

SPECS = [Spec(n_ctx=8192), Spec(arch="gemma2", n_layer=4, n_ctx=8192)]
ids = ["llama", "windows"]


def turns(seed, n_turns=3, n_first=600):
    """Prompts of a conversation, each of which goes on with the last one; what it says is random."""
    rng_lengths = [n_first, *[60] * (n_turns - 1)]
    return [random_tokens(n, 100 * seed + i) for i, n in enumerate(rng_lengths)]


class Talk:
    """A conversation with a model that others talk to, too."""

    def __init__(self, llama, seed):
        self.llama, self.said, self.prompt, self.answers = llama, turns(seed), [], []

    def turn(self):
        self.prompt += self.said[len(self.answers)]
        self.answers.append(answer(self.llama, self.prompt, n=6))
        self.prompt += self.answers[-1]


def solo(path, seed, **options):
    with opened(path, **options) as llama:
        talk = Talk(llama, seed)
        for _ in range(3):
            talk.turn()
        return talk.answers


# calibrated, the layers of what is kept differ
@pytest.mark.parametrize("is_calibrated", [False, True])
@pytest.mark.parametrize("kv_budget", [100, 900])
@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_conversations_in_turn(tiny_model, spec, kv_budget, is_calibrated, monkeypatch):
    """Evicted or whole, each answers as if it were alone, and no turn reads more than its own tokens."""
    path, heads = tiny_model(spec), random_profile(spec) if is_calibrated else None
    options = {"kv_budget": kv_budget, "serves": lambda *_: True, "heads": heads}
    expected = [solo(path, seed, **options) for seed in range(4)]
    with opened(path, **options) as llama:
        talks, evaluated = [Talk(llama, seed) for seed in range(4)], Evaluated(monkeypatch)
        for i in range(3):
            for talk in talks:
                talk.turn()
                n = evaluated.take()
                assert i == 0 or n < 200, (i, n)
        assert [talk.answers for talk in talks] == expected
        assert any(llama.kv_cache.sequence.n_missing) == (is_calibrated and kv_budget == 100)


@pytest.mark.parametrize("kv_budget", [100, 900])
def test_another_answer_behind_what_a_window_has_lost(tiny_model, kv_budget):
    """What comes back has no more of a sliding window than its end sees: it cannot be cut further before."""
    prompt, other = random_tokens(300, 1), random_tokens(20, 3)
    with opened(tiny_model(SPECS[1]), kv_budget=kv_budget, serves=lambda *_: True) as llama:
        first = answer(llama, prompt, 60)
        answer(llama, random_tokens(100, 2))
        answer(llama, [*prompt, *first[:20], *other])
        assert llama.n_tokens == 351
        assert llama.kv_cache.next_position == 351


def test_without_memory_for_them_a_text_is_read_again(tiny_model, monkeypatch):
    with opened(tiny_model(SPECS[0]), cache_ram=0) as llama:
        talks, evaluated = [Talk(llama, seed) for seed in range(2)], Evaluated(monkeypatch)
        for _ in range(2):
            for talk in talks:
                talk.turn()
                assert evaluated.take() > 500


def test_a_reset_forgets_them(tiny_model, monkeypatch):
    with opened(tiny_model(SPECS[0])) as llama:
        talk, other = Talk(llama, 0), Talk(llama, 1)
        talk.turn()
        other.turn()
        llama.reset()
        evaluated = Evaluated(monkeypatch)
        talk.turn()
        assert evaluated.take() > 500


def test_a_title_request_between_two_turns(tiny_model, monkeypatch):
    with opened(tiny_model(SPECS[0])) as llama:
        talk = Talk(llama, 0)
        talk.turn()
        answer(llama, random_tokens(80, 9), n=4)
        evaluated = Evaluated(monkeypatch)
        talk.turn()
        assert evaluated.take() < 200


@pytest.fixture
def caches(tiny_model):
    with opened(tiny_model(SPECS[0]), kv_budget=None, n_ctx=512) as llama:
        yield llama.kv_cache


@pytest.mark.parametrize("change", [str.strip, lambda text: text.replace(" e", "\n\ne"), lambda text: f" {text}\n"])
def test_an_answer_with_other_white_space(tiny_model, change, monkeypatch):
    """Clients trim what comes back: the answer, some of which was evicted meanwhile, is not read again."""
    grammar = llama_cpp.LlamaGrammar.from_string('root ::= ("d e "){300}', verbose=False)
    with opened(tiny_model(Spec(n_ctx=8192, template=CHATML)), serves=lambda *_: True) as llama:
        messages = [{"role": "user", "content": "word " * 200}]
        reply = llama.create_chat_completion(messages, max_tokens=1300, temperature=0, grammar=grammar)
        content = reply["choices"][0]["message"]["content"]
        assert llama.usage.n_evictions > 1
        assert change(content) != content
        evaluated = Evaluated(monkeypatch)
        messages += [{"role": "assistant", "content": change(content)}, {"role": "user", "content": "Go on."}]
        llama.create_chat_completion(messages, max_tokens=4, temperature=0)
        assert evaluated.take() < 150
        assert llama.usage.n_rereads == 0


@pytest.mark.parametrize("kv_budget", [100, 900])
@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_conversations_on_disk(tiny_model, tmp_path, spec, kv_budget, monkeypatch):
    """With memory for one of them, and in another process: each answers as if it were alone, for its own tokens."""
    path = tiny_model(spec)
    options = {"kv_budget": kv_budget, "serves": lambda *_: True, "heads": random_profile(spec)}
    expected = [solo(path, seed, **options) for seed in range(4)]
    talks, evaluated = [Talk(None, seed) for seed in range(4)], Evaluated(monkeypatch)
    for i in range(3):
        with opened(path, store=tmp_path, **options) as llama:
            one = llama.engine._conversations
            for talk in talks:
                talk.llama = llama
                talk.turn()
                # room for one state, whatever its size
                one.n_max = int(1.5 * llama.usage.bytes_used)
                n = evaluated.take()
                assert i == 0 or n < 200, (i, n)
    assert [talk.answers for talk in talks] == expected
    catalog = llama.engine.store.catalog
    # what goes on replaces what it goes on with
    assert len(list(catalog.folder.glob("*.kv"))) == 4


@pytest.mark.slow
def test_a_thousand_turns_in_little_memory(tiny_model, tmp_path):
    """Eight conversations, of which a few have room in memory, and the others on disk."""
    run_job("many_turns", tiny_model(SPECS[0]), tmp_path)


@pytest.mark.parametrize("change", [{"kv_budget": 120}, {"policy": "snapkv"}, {"type_k": "q8_0"}])
def test_a_conversation_that_was_evicted_in_another_way_is_read_again(tiny_model, tmp_path, change, monkeypatch):
    path, options = tiny_model(SPECS[0]), {"kv_budget": 100, "flash_attn": "on", "store": tmp_path}
    evaluated = Evaluated(monkeypatch)
    for other, is_read in (({}, True), ({}, False), (change, True)):
        with opened(path, **options | other) as llama:
            Talk(llama, 0).turn()
        assert (evaluated.take() > 500) == is_read, other


def test_a_damaged_conversation_is_read_again(tiny_model, tmp_path, monkeypatch):
    path, options = tiny_model(SPECS[0]), {"kv_budget": 100, "store": tmp_path}
    with opened(path, **options) as llama:
        (talk := Talk(llama, 0)).turn()
    for file in tmp_path.glob("*.kv"):
        data = bytearray(file.read_bytes())
        data[-100] ^= 1
        file.write_bytes(data)
    evaluated = Evaluated(monkeypatch)
    with opened(path, **options) as llama:
        (again := Talk(llama, 0)).turn()
        assert any("damaged" in fault for fault in llama.usage.faults)
    assert evaluated.take() > 500
    assert again.answers == talk.answers


def test_a_store_that_takes_nothing_is_said(tiny_model, tmp_path):
    with opened(tiny_model(SPECS[0]), kv_budget=100, store=tmp_path, store_size=1000, cache_ram=0) as llama:
        for seed in range(2):
            Talk(llama, seed).turn()
        llama.engine.put_away()
        assert any("no room" in fault for fault in llama.engine.store.catalog.take_faults())


def test_a_sequence_of_ask_is_no_conversation(tiny_model, tmp_path):
    from dapq_edge import open_model
    from dapq_edge.eviction.budget import Cells
    from dapq_edge.eviction.policies import get_policy

    engine = open_model(tiny_model(SPECS[0]), n_threads=1, store=tmp_path)
    engine.read(random_tokens(300, 1), get_policy("fused"), Cells(100))
    engine.close()
    assert list(tmp_path.glob("*.kv")) == []


def read(cache: KVCache, tokens):
    cache.clear()
    cache.read(tokens)


def test_the_oldest_goes_first(caches):
    texts = [random_tokens(100, seed) for seed in range(4)]
    read(caches, texts[0])
    conversations = Conversations(int(2.5 * caches.n_bytes))
    for text in texts:
        read(caches, text)
        conversations.keep(caches)
        assert conversations.n_bytes <= conversations.n_max
    for text, is_there in zip(texts, [False, False, True, True], strict=True):
        caches.clear()
        conversations.exchange(caches, lambda sequence, text=text: text)
        assert (caches.sequence.text.tolist() == text) == is_there


def test_one_that_goes_no_further_is_not_kept_twice(caches):
    text = random_tokens(200, 1)
    conversations = Conversations(10**9)
    for n in (100, 150, 200):
        read(caches, text[:n])
        conversations.keep(caches)
    assert conversations.n_bytes < 2 * caches.n_bytes


def test_little_is_lost_without_a_copy(caches):
    conversations, text = Conversations(10**9), random_tokens(N_LOST, 1)
    read(caches, text)
    conversations.exchange(caches, lambda sequence: random_tokens(50, 2))
    assert conversations.n_bytes == 0
    read(caches, random_tokens(N_LOST + 1, 3))
    conversations.exchange(caches, lambda sequence: random_tokens(50, 2))
    assert conversations.n_bytes > 0
