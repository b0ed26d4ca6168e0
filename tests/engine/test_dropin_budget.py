"""`dapq_edge.Llama` beyond its budget: what is evicted, what is read again, and what never grows."""

import llama_cpp
import pytest
from helpers.context import Context
from helpers.llamas import Evaluated, answer, opened, set_decode
from helpers.profiles import random_profile
from helpers.templates import CHATML
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import Control, KVCache, get_policy
from dapq_edge.errors import AbortedError, TooLongError, UsageError
from dapq_edge.prompt.request import N_SHORT
from dapq_edge.reading import relevance
from dapq_edge.reading.decide import N_ANSWER

SPEC = Spec(n_ctx=4096)


@pytest.mark.parametrize("policy", ["fused", "dapq", "laq", "snapkv", "streaming", "tova", "pyramid"])
def test_a_long_prompt_is_evicted(tiny_model, policy):
    with opened(tiny_model(SPEC), policy=policy) as llama:
        answer(llama, random_tokens(3000, 1))
        usage = llama.usage
        assert usage.n_tokens == 3011
        assert usage.n_cells_used == 111
        assert usage.n_cells <= 1024
        assert usage.n_evictions > 0
        assert llama.kv_cache.sequence.coverage().sum() == pytest.approx(111, abs=0.5 if policy != "pyramid" else 6)
        text = llama.detokenize(llama._input_ids.tolist(), special=True).decode("utf-8", "replace")
        assert "".join(piece for piece, _ in llama.kept()) == text


def test_a_request_that_extends_the_last_one_costs_its_tail(tiny_model, monkeypatch):
    """Also when it was evicted, and when the same prompt comes again."""
    evaluated, prompt = Evaluated(monkeypatch), random_tokens(500, 1)
    with opened(tiny_model(SPEC)) as llama:
        first = answer(llama, prompt)
        # a question that is not the last word is read once more, to look ahead, and forgotten
        assert 500 <= evaluated.take() <= 500 + 2 + 64 + 3
        assert answer(llama, prompt) == first
        assert evaluated.take() == 0
        assert answer(llama, [*prompt, *first, *random_tokens(30, 2)])
        assert evaluated.take() <= 31 + 3 * 64
        assert llama.usage.n_tokens == 500 + 12 + 30 + 11
        # what diverges inside the evicted part is read again
        answer(llama, prompt[:400] + random_tokens(60, 3))
        assert evaluated.take() >= 460
        assert llama.usage.n_tokens == 460 + 11


def test_the_text_counts_not_the_tokens(tiny_model, monkeypatch):
    """An answer that comes back as other tokens of the same text is not read again."""
    with opened(tiny_model(SPEC)) as llama:
        answer(llama, random_tokens(500, 1), 3)
        evaluated = Evaluated(monkeypatch)
        text = llama.detokenize(llama._input_ids.tolist()[500:], special=True)
        other = llama.tokenize(text, add_bos=False, special=True)
        llama.input_ids[500:502] = llama.input_ids[500:502]
        tokens = random_tokens(500, 1) + other + random_tokens(20, 2)
        answer(llama, tokens, 1)
        assert evaluated.take() < 200


@pytest.mark.slow
def test_memory_is_bounded_for_any_number_of_turns(tiny_model):
    """Also beyond the length that the model was trained for, if the text is longer than that."""
    with opened(tiny_model(Spec(n_ctx=1024)), n_ctx=8192) as llama:
        text, cells = [], set()
        for turn in range(40):
            text += random_tokens(150, turn)
            text += answer(llama, text, 40)
            assert llama.usage.n_cells_used <= llama.usage.n_cells
            assert llama.kv_cache.next_position <= 1024
            cells.add(llama.usage.n_cells)
        assert len(text) > 7000
        assert cells == {768}


def test_a_turn_that_fits_a_chunk_reads_nothing_again(tiny_model):
    # what random tokens ask for is nowhere
    with opened(tiny_model(Spec(n_ctx=8192)), n_ctx=8192, serves=lambda *_: True) as llama:
        text = random_tokens(900, 0)
        text += answer(llama, text, 40)
        first = llama.engine.last_read
        for turn in range(1, 16):
            # the first one leaves more than the budget behind, the second one then needs an eviction first
            text += random_tokens(100 if turn % 2 else 350, turn)
            text += answer(llama, text, 100)
        assert len(text) > 5000
        assert llama.usage.n_evictions > 5
        assert llama.engine.last_read is first


@pytest.mark.parametrize("heads", [None, random_profile(Spec())], ids=["even", "uneven"])
def test_no_eviction_cuts_a_question(tiny_model, heads):
    """Whatever room the last turn has left: it is asked in the cells that are there, before any is evicted."""
    path, asked = tiny_model(Spec(n_ctx=8192, template=CHATML)), []

    def is_asked(cache, question, *_):
        asked.append(cache.sees(cache.next_position - len(question)))
        return True

    with opened(path, kv_budget=300, heads=heads, serves=is_asked) as llama:
        messages = [{"role": "user", "content": 150 * "so long " + "\n\nWhat is it?"}]
        answers = llama.create_chat_completion(messages, max_tokens=8)["choices"]
        state = llama.save_state()
        # the generation prompt has 11 tokens
        for n_chars in range(130, 650, 10):
            llama.load_state(state)
            asking = {"role": "user", "content": n_chars * "x" + " and what is the other one?"}
            llama.create_chat_completion([*messages, answers[0]["message"], asking], max_tokens=1)
    assert len(asked) > 40
    assert all(asked)


def test_a_question_that_an_eviction_cut_is_not_served(tiny_model):
    with Context(tiny_model(SPEC), n_ctx=1024) as context:
        cache, question = KVCache(context.ctx), random_tokens(30, 2)
        cache.read(random_tokens(300, 1) + question[:20])
        get_policy("dapq").evict(cache, 100)
        cache.read(question[20:])
        assert not relevance.serves(cache, question, None, 32)


def test_short_turns_evict_seldom_where_layers_differ(tiny_model):
    """The layer that keeps most may have more than the budget and half a chunk."""
    options = {"kv_budget": 300, "heads": random_profile(Spec()), "serves": lambda *_: True}
    with opened(tiny_model(Spec(n_ctx=8192)), **options) as llama:
        text = random_tokens(1200, 0)
        for turn in range(6):
            text += answer(llama, text, 5)
            assert llama.kv_cache.n_cells > 300 + N_ANSWER
            text += random_tokens(20, turn)
        assert llama.usage.n_evictions <= 3


def test_a_remark_needs_no_document(tiny_model):
    with opened(tiny_model(Spec(n_ctx=8192)), n_ctx=8192, serves=lambda *_: False) as llama:
        text = random_tokens(900, 0)
        text += answer(llama, text, 20)
        for n_tokens, n_rereads in ((N_SHORT - 1, 0), (N_SHORT, 1)):
            # the last token of an answer was not evaluated
            text += random_tokens(n_tokens - 1, 1)
            text += answer(llama, text, 20)
            assert llama.usage.n_rereads == n_rereads


@pytest.mark.parametrize("heads", [None, random_profile(Spec())], ids=["even", "uneven"])
def test_nothing_is_evicted_for_an_answer_that_has_room(tiny_model, heads):
    with opened(tiny_model(SPEC), kv_budget=256, heads=heads) as llama:
        assert len(answer(llama, random_tokens(1500, 1), N_ANSWER)) == N_ANSWER
        assert llama.usage.n_evictions == 1


def test_an_answer_may_be_longer_than_the_cells(tiny_model):
    with opened(tiny_model(SPEC)) as llama:
        n_cells = llama.usage.n_cells
        assert len(answer(llama, random_tokens(300, 1), 1500)) == 1500
        assert llama.usage.n_tokens == 1799
        assert llama.usage.n_cells == n_cells
        assert llama.usage.n_evictions >= 3


def test_what_is_too_long_is_said_in_tokens_of_the_text(tiny_model):
    with opened(tiny_model(SPEC), n_ctx=1024) as llama, pytest.raises(TooLongError, match=r"1100.* exceed .* 1024$"):
        llama.create_completion(random_tokens(1100, 1))
    with opened(tiny_model(Spec(n_ctx=1024)), n_ctx=4096, policy="streaming") as llama:
        with pytest.raises(TooLongError, match="2,000 tokens are read at once, but the model was trained for 1,024"):
            llama.create_completion(random_tokens(2000, 1))
        assert len(answer(llama, random_tokens(50, 1))) == 12


def test_set_eviction(tiny_model):
    prompt = random_tokens(1000, 1)
    with opened(tiny_model(SPEC)) as llama:
        expected = answer(llama, prompt)
        for kv_budget, policy, n_kept in (
            ("25%", "dapq", 1000),
            (200, None, 200),
            ("5000", None, 1000),
            (50, "snapkv", 50),
        ):
            llama.set_eviction(kv_budget, policy)
            answer(llama, prompt)
            assert llama.usage.n_cells_used == n_kept + 11
        for wrong in (
            ("-1", None),
            ("x", None),
            (0, None),
            (None, "h2o"),
            (None, "no"),
            (5, None),
            (None, "compresskv"),
        ):
            with pytest.raises(UsageError):
                llama.set_eviction(*wrong)
        llama.set_eviction()
        assert answer(llama, prompt) == expected
        assert llama.usage.n_cells_used == 111


def test_reading_can_be_stopped(tiny_model):
    with opened(tiny_model(SPEC)) as llama:
        calls = []
        llama.control = Control(should_abort=lambda: calls.append(1) or len(calls) == 3)
        with pytest.raises(AbortedError):
            answer(llama, random_tokens(3000, 1))
        llama.control = Control()
        assert llama.usage.n_tokens == 0
        assert len(answer(llama, random_tokens(3000, 1))) == 12


def test_interrupted_in_the_middle(tiny_model, monkeypatch):
    """What Ctrl-C leaves behind is not taken for the prompt."""
    prompt = random_tokens(900, 1)
    with opened(tiny_model(SPEC), kv_budget=500) as llama:
        expected = answer(llama, prompt)
        for n_calls in range(1, 12):
            left = iter(range(n_calls))
            decode = llama_cpp.llama_decode

            def interrupted(ctx, batch, left=left, decode=decode):
                code = decode(ctx, batch)
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return code

            llama.reset()
            with monkeypatch.context() as patch:
                set_decode(patch, interrupted)
                with pytest.raises(KeyboardInterrupt):
                    answer(llama, prompt, 60)
            assert answer(llama, prompt) == expected


def test_a_prompt_template_costs_its_end(tiny_model):
    """Chains send the same beginning again and again."""
    with opened(tiny_model(SPEC)) as llama:
        start = random_tokens(600, 1)
        answer(llama, start + random_tokens(20, 2))
        n_evictions = llama.usage.n_evictions
        answer(llama, start + random_tokens(20, 2))
        assert llama.usage.n_evictions == n_evictions
