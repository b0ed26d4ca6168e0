"""The ledger follows llama.cpp: after errors, interruptions, resets, and into saved states."""

import pickle

import llama_cpp
import numpy as np
import pytest
from helpers.context import Context
from helpers.llamas import answer, opened, set_decode
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import Auto, Cells, DapqError, KVCache, Llama, Sequence, UsageError, get_policy, open_model
from dapq_edge.chat.session import load_session, save_session
from dapq_edge.errors import TooLongError
from dapq_edge.llamacpp import native

SPEC = Spec(n_ctx=4096)
TOKENS = random_tokens(90, 1)


def test_a_refused_policy_leaves_everything(tiny_model):
    """No head profile, a budget that is too small, no such policy."""
    prompt = random_tokens(900, 1)
    with opened(tiny_model(SPEC)) as llama:
        expected, sequence = answer(llama, prompt), llama.kv_cache.sequence
        for wrong in ((None, "compresskv"), (5, None), ("x", None), (None, "no"), (None, "h2o"), (5, "snapkv")):
            with pytest.raises(UsageError):
                llama.set_eviction(*wrong)
            assert llama.kv_cache.sequence is sequence
            assert llama.engine.policy.name == "fused"
        assert answer(llama, prompt) == expected
        assert answer(llama, random_tokens(900, 2))


def test_a_context_that_cannot_be_opened_leaves_policy_and_budget(tiny_model, monkeypatch):
    with opened(tiny_model(SPEC)) as llama:
        n_cells = llama.usage.n_cells
        with monkeypatch.context() as patch:
            opening = type(llama.engine.model).open_context

            def fails(model, n):
                if n > 2000:
                    raise DapqError("not enough memory")
                return opening(model, n)

            patch.setattr(type(llama.engine.model), "open_context", fails)
            with pytest.raises(DapqError, match="not enough memory"):
                llama.set_eviction(3000, "dapq")
        assert (llama.engine.policy.name, llama.usage.n_cells) == ("fused", n_cells)
        assert len(answer(llama, random_tokens(900, 1))) == 12


def test_without_a_budget_one_can_be_set(tiny_model):
    prompt = random_tokens(900, 1)
    with opened(tiny_model(SPEC), kv_budget=None) as llama:
        everything = answer(llama, prompt)
        assert llama.usage.n_cells_used == 911
        llama.set_eviction(100)
        answer(llama, prompt)
        assert llama.usage.n_cells_used == 111
        llama.set_eviction()
        assert answer(llama, prompt) == everything
        assert llama.usage.n_cells_used == 911


def test_without_a_budget_a_text_can_be_extended(tiny_model):
    with opened(tiny_model(SPEC), kv_budget=None, n_ctx=512) as llama:
        llama.extend(100)
        assert llama.n_ctx() == 512
        llama.extend(1500)
        assert llama.n_ctx() == llama.usage.n_cells == 1536
        assert len(answer(llama, random_tokens(1200, 1))) == 12


def test_what_is_never_evicted_says_so(tiny_model):
    with opened(tiny_model(SPEC), embedding=True, n_ctx=512) as llama:
        llama.set_eviction()
        # there is room
        llama.extend(400)
        for refused in (lambda: llama.set_eviction(70), lambda: llama.extend(1000), lambda: llama.usage):
            with pytest.raises(UsageError, match="never evicted"):
                refused()


def test_reset_forgets_everything(tiny_model):
    """Also that there was a document, so that small talk is not read again for."""
    with opened(tiny_model(SPEC), serves=lambda *_: False) as llama:
        answer(llama, random_tokens(900, 1))
        assert llama.kv_cache.sequence.has_document
        assert llama.usage.attention_kept is not None
        llama.reset()
        sequence = llama.kv_cache.sequence
        for name, value in vars(Sequence()).items():
            np.testing.assert_equal(getattr(sequence, name), value)
        text = random_tokens(550, 2)
        for turn in range(3):
            text += answer(llama, text, 60) + random_tokens(20, turn)
        assert llama.usage.n_rereads == 0


def test_nothing_grows_with_each_change(tiny_model):
    """Contexts that were closed are not remembered anywhere."""
    with opened(tiny_model(SPEC)) as llama:
        stacks = llama._stack, llama._model._exit_stack, Llama._stack

        def callbacks():
            return [len(stack._exit_callbacks) for stack in stacks]

        before = callbacks()
        for i in range(6):
            llama.set_eviction(100 + i, "dapq")
            llama.extend(4096 + 256 * (i + 1))
        assert callbacks() == before


def test_a_gather_that_fails_in_the_middle_empties_the_ledger(tiny_model, monkeypatch):
    """llama.cpp returns -3 when it has no memory to move cells, and may have lost them."""
    with Context(tiny_model(SPEC)) as context:
        cache = KVCache(context.ctx)
        cache.read(TOKENS)
        keep = get_policy("dapq").keep(cache, 40)

        def lost(ctx, src, dst, keep):
            llama_cpp.llama_memory_seq_rm(context.memory, src, -1, -1)
            raise DapqError("llama.cpp could not move the cells")

        with monkeypatch.context() as patch:
            patch.setattr(native, "seq_gather", lost)
            with pytest.raises(DapqError, match="could not move"):
                cache.evict(keep)
        assert cache.sequence.n_tokens == cache.next_position == 0
        cache.read(TOKENS)
        assert cache.n_cells == cache.sequence.n_cells == 90


def test_a_gather_that_is_refused_changes_nothing(tiny_model):
    with Context(tiny_model(SPEC)) as context:
        cache = KVCache(context.ctx)
        cache.read(TOKENS)
        before = cache.sequence
        with pytest.raises(DapqError, match="refused to gather"):
            cache.evict([np.array([[5, 3]] * 2)] * 3)
        assert cache.sequence is before
        assert cache.n_cells == 90


def test_mend(tiny_model, monkeypatch):
    """What an interruption left in llama.cpp only is removed."""
    decode = llama_cpp.llama_decode

    def interrupted(ctx, batch):
        decode(ctx, batch)
        raise KeyboardInterrupt

    with Context(tiny_model(SPEC)) as context:
        cache = KVCache(context.ctx)
        cache.read(TOKENS)
        assert cache.mend()
        with monkeypatch.context() as patch:
            set_decode(patch, interrupted)
            with pytest.raises(KeyboardInterrupt):
                cache.read(TOKENS[:20])
        assert cache.next_position == cache.n_cells == cache.sequence.n_positions == 90
        # what somebody else decoded
        assert context.decode(TOKENS[:20], 90) == 0
        assert not cache.mend()
        assert cache.next_position == cache.n_cells == 90
        cache.evict(get_policy("dapq").keep(cache, 40))
        # a gather that the ledger does not know of
        native.seq_gather(context.ctx, 0, 0, [np.array([[1, 3, 5]] * 2)] * 3)
        assert not cache.mend()
        assert cache.next_position == cache.sequence.n_tokens == 0


def test_an_answer_that_was_not_evaluated_yet(tiny_model, tmp_path):
    """A state that ends where it was evicted has its logits, also in a context that has evaluated nothing."""
    prompt, path = random_tokens(900, 1), tmp_path / "a.session"
    with opened(tiny_model(SPEC)) as llama:
        expected = answer(llama, prompt)
        llama.reset()
        assert answer(llama, prompt, 1) == expected[:1]
        assert llama.n_tokens == llama.kv_cache.sequence.n_frozen == 900
        save_session(llama, path, {})
        # behind the first token, an answer is from the cells that were kept
        load_session(llama, path)
        again = answer(llama, prompt)
        assert again[0] == expected[0]
    with opened(tiny_model(SPEC)) as llama:
        load_session(llama, path)
        assert answer(llama, prompt) == again


def test_the_text_has_an_end(tiny_model):
    with opened(tiny_model(SPEC), n_ctx=512, kv_budget=None) as llama:
        with pytest.raises(TooLongError, match="the context of 512 tokens is full"):
            llama.eval(random_tokens(600, 1))
        assert llama.n_tokens == 0


def test_a_text_that_is_too_long_is_not_skimmed(tiny_model):
    with opened(tiny_model(SPEC), n_ctx=1024) as llama:
        for prompt in (random_tokens(1100, 1), random_tokens(1100, 1)):
            with pytest.raises(TooLongError, match="1,100 tokens exceed the context of 1,024"):
                next(llama.generate(prompt))
        assert len(answer(llama, random_tokens(900, 1))) == 12


def test_logits_stay_when_a_text_is_extended(tiny_model):
    with opened(tiny_model(SPEC), n_ctx=512, kv_budget=100, logits_all=True) as llama:
        answer(llama, random_tokens(300, 1))
        before = llama.scores[:300].copy()
        llama.extend(2048)
        assert llama.n_ctx() == len(llama.scores) == 2048
        np.testing.assert_array_equal(llama.scores[:300], before)


@pytest.mark.parametrize("policy", ["laq", "h2o"])
def test_one_shot(tiny_model, policy):
    """The whole prompt is there when it is evicted, with room for what the policy needs; also in the next turn."""
    with opened(tiny_model(SPEC), policy=policy, one_shot=True, kv_budget=500, n_ctx=2048) as llama:
        text = random_tokens(1500, 1)
        for turn in range(2):
            text += answer(llama, text)
            assert llama.usage.n_cells_used <= 512
            text += random_tokens(400, turn)
        again = pickle.loads(pickle.dumps(llama))
        assert again.usage.n_cells == llama.usage.n_cells
        again.close()


def test_after_a_prompt_was_read_eviction_is_set_again(tiny_model):
    with opened(tiny_model(SPEC)) as llama:
        llama.engine.read(random_tokens(200, 1), get_policy("full"), Cells(1000))
        assert llama.usage.n_cells_used == 200
        llama.set_eviction()
        answer(llama, random_tokens(900, 1))
        assert llama.usage.n_cells_used == 111


def test_an_auto_budget_is_planned(tiny_model):
    engine = open_model(tiny_model(SPEC), n_threads=1)
    assert engine.read(random_tokens(900, 1), get_policy("dapq"), Auto()).cells_kept == 900
    with pytest.raises(UsageError, match="kv_budget auto: it has to be planned"):
        get_policy("dapq").cells_to_keep(Auto(), 900)
    engine.close()


def test_an_answer_ends_where_the_room_does(tiny_model):
    engine = open_model(tiny_model(SPEC), n_threads=1)
    engine.read(random_tokens(250, 1), get_policy("full"), Cells(1000), n_predict=6)
    # one token beyond the last one that was evaluated is known
    assert len(list(engine.stream(100))) == engine.n_ctx - 250 + 1
    engine.close()


def test_a_state_with_more_logits_than_we_keep(tiny_model):
    with opened(tiny_model(SPEC), kv_budget=1000, logits_all=True) as llama:
        expected = answer(llama, random_tokens(700, 1))
        state = llama.save_state()
    with opened(tiny_model(SPEC), kv_budget=1000) as llama:
        llama.load_state(state)
        assert answer(llama, random_tokens(700, 1)) == expected
