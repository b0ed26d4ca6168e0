"""`dapq_edge.Llama`: what it shares with `llama_cpp.Llama`, and what it does beyond its budget."""

import argparse
import pickle
from contextlib import contextmanager
from itertools import islice

import llama_cpp
import numpy as np
import pytest
from test_probe import random_tokens
from tiny import Spec, write_recurrent_gguf

from dapq_edge import Llama, native
from dapq_edge.errors import AbortedError, DapqError, ModelError, TooLongError, UsageError
from dapq_edge.prompts import N_SHORT
from dapq_edge.shape import read_shape

SPEC = Spec(n_ctx=4096)
OPTIONS = dict(n_threads=2, n_threads_batch=2, verbose=False)


@contextmanager
def opened(path, **options):
    llama = Llama(path, **OPTIONS, **{"kv_budget": 100, "n_ctx": 4096, **options})
    yield llama
    llama.close()


@contextmanager
def stock(path, **options):
    llama = llama_cpp.Llama(str(path), **OPTIONS, **{"n_ctx": 4096, **options})
    yield llama
    llama.close()


def complete(llama, tokens, n=12, **options):
    return llama.create_completion(tokens, max_tokens=n, temperature=0, **options)["choices"][0]["text"]


def answer(llama, tokens, n=12):
    """Greedy tokens."""
    return list(islice(llama.generate(tokens, temp=0), n))


def set_decode(monkeypatch, decode):
    """In our calls and in those of llama-cpp-python."""
    for module in (llama_cpp, llama_cpp.llama_cpp):
        monkeypatch.setattr(module, "llama_decode", decode)


class Evaluated:
    """Counts the tokens that llama.cpp decodes, without those of look-aheads: batches of one token."""

    def __init__(self, monkeypatch):
        self.n = 0
        decode = llama_cpp.llama_decode

        def counted(ctx, batch):
            self.n += batch.n_tokens if batch.n_tokens > 1 else 0
            return decode(ctx, batch)

        set_decode(monkeypatch, counted)

    def take(self):
        n, self.n = self.n, 0
        return n


@pytest.mark.parametrize("options", [{}, {"flash_attn": True}, {"n_batch": 64}, {"logits_all": True}])
def test_within_the_budget_it_is_llama_cpp(tiny_model, options):
    """Logits to the bit, and completions with all that belongs to them."""
    prompts = random_tokens(600, 1), random_tokens(600, 1)[:300] + random_tokens(50, 2), random_tokens(20, 3)
    with opened(tiny_model(SPEC), kv_budget=1024, **options) as ours, stock(tiny_model(SPEC), **options) as theirs:
        assert ours.n_ctx() == theirs.n_ctx() == 4096
        assert native.n_cells(ours.ctx) == 1536
        for prompt in prompts:
            assert answer(ours, prompt) == answer(theirs, prompt)
            logits = [
                np.ctypeslib.as_array(llama_cpp.llama_get_logits(llama.ctx), (llama.n_vocab(),))
                for llama in (ours, theirs)
            ]
            assert logits[0].tobytes() == logits[1].tobytes()
        choices = [
            llama.create_completion("a b c d", max_tokens=8, seed=7, logprobs=3 if options.get("logits_all") else None)[
                "choices"
            ]
            for llama in (ours, theirs)
        ]
        assert choices[0] == choices[1]
        assert ours.usage.n_evictions == 0


@pytest.mark.parametrize(
    "options", [{"kv_budget": None}, {"kv_budget": "auto"}, {"kv_budget": "100%"}, {"policy": "full"}]
)
def test_nothing_is_evicted(tiny_model, options):
    prompt = random_tokens(1000, 1)
    with opened(tiny_model(SPEC), **options) as ours, stock(tiny_model(SPEC)) as theirs:
        assert answer(ours, prompt) == answer(theirs, prompt)
        assert ours.usage.n_cells_used == 1011 and ours.usage.n_cells == 4096


def test_auto_counts_the_memory_before_the_model_is_loaded(tiny_model, monkeypatch):
    path = tiny_model(SPEC)
    needed = read_shape(path).total_bytes(1024, "f16", "f16", 512)
    monkeypatch.setattr("dapq_edge.reading.free_memory", lambda n_gpu_layers: int(needed / 0.9) + 2)
    # whoever asks later sees nothing
    monkeypatch.setattr("dapq_edge.memory.psutil.virtual_memory", lambda: argparse.Namespace(available=0))
    with opened(path, kv_budget="auto") as llama:
        answer(llama, random_tokens(3000, 1))
        assert llama.usage.n_cells == 1024 and 0 < llama.usage.n_cells_used < 1024
        llama.set_eviction(kv_budget=100)
        llama.set_eviction(kv_budget="auto")
        assert llama.usage.n_cells == 1024


@pytest.mark.parametrize("policy", ["fused", "dapq", "laq", "snapkv", "streaming", "tova", "pyramid"])
def test_a_long_prompt_is_evicted(tiny_model, policy):
    with opened(tiny_model(SPEC), policy=policy) as llama:
        answer(llama, random_tokens(3000, 1))
        usage = llama.usage
        assert usage.n_tokens == 3011 and usage.n_cells_used == (111 if policy != "pyramid" else 196)
        assert usage.n_cells <= 1024 and usage.n_evictions > 0
        assert llama.kv_cache.share_of_heads().sum() == pytest.approx(111, abs=0.5)
        text = llama.detokenize(llama._input_ids.tolist(), special=True).decode("utf-8", "replace")
        assert "".join(piece for piece, _ in llama.kept()) == text


def test_a_request_that_extends_the_last_one_costs_its_tail(tiny_model, monkeypatch):
    """Also when it was evicted, and when the same prompt comes again."""
    evaluated, prompt = Evaluated(monkeypatch), random_tokens(500, 1)
    with opened(tiny_model(SPEC)) as llama:
        first = answer(llama, prompt)
        assert evaluated.take() == 500
        assert answer(llama, prompt) == first and evaluated.take() == 0
        assert answer(llama, [*prompt, *first, *random_tokens(30, 2)]) and evaluated.take() <= 31 + 3 * 64
        assert llama.usage.n_tokens == 500 + 12 + 30 + 11
        # what diverges inside the evicted part is read again
        answer(llama, prompt[:400] + random_tokens(60, 3))
        assert evaluated.take() >= 460 and llama.usage.n_tokens == 460 + 11


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
        assert len(text) > 7000 and cells == {768}


def test_a_turn_that_fits_a_chunk_reads_nothing_again(tiny_model, monkeypatch):
    with opened(tiny_model(Spec(n_ctx=8192)), n_ctx=8192) as llama:
        text = random_tokens(900, 0)
        text += answer(llama, text, 40)
        # what random tokens ask for is nowhere
        monkeypatch.setattr(llama, "_serves", lambda question: True)
        monkeypatch.setattr(llama, "_read_again", None)
        for turn in range(1, 16):
            # the first one leaves more than the budget behind, the second one then needs an eviction first
            text += random_tokens(100 if turn % 2 else 350, turn)
            text += answer(llama, text, 100)
        assert len(text) > 5000 and llama.usage.n_evictions > 5


def test_a_remark_needs_no_document(tiny_model, monkeypatch):
    with opened(tiny_model(Spec(n_ctx=8192)), n_ctx=8192) as llama:
        text = random_tokens(900, 0)
        text += answer(llama, text, 20)
        monkeypatch.setattr(llama, "_serves", lambda question: False)
        for n_tokens, n_rereads in ((N_SHORT - 1, 0), (N_SHORT, 1)):
            # the last token of an answer was not evaluated
            text += random_tokens(n_tokens - 1, 1)
            text += answer(llama, text, 20)
            assert llama.usage.n_rereads == n_rereads


def test_an_answer_may_be_longer_than_the_cells(tiny_model):
    with opened(tiny_model(SPEC)) as llama:
        n_cells = llama.usage.n_cells
        assert len(answer(llama, random_tokens(300, 1), 1500)) == 1500
        assert llama.usage.n_tokens == 1799 and llama.usage.n_cells == n_cells and llama.usage.n_evictions >= 3


def test_what_is_too_long_is_said_in_tokens_of_the_text(tiny_model):
    with opened(tiny_model(SPEC), n_ctx=1024) as llama, pytest.raises(TooLongError, match="1100.* exceed .* 1024$"):
        llama.create_completion(random_tokens(1100, 1))
    with opened(tiny_model(Spec(n_ctx=1024)), n_ctx=4096, policy="streaming") as llama:
        with pytest.raises(TooLongError, match="2,000 tokens are read at once, but the model was trained for 1,024"):
            llama.create_completion(random_tokens(2000, 1))
        assert len(answer(llama, random_tokens(50, 1))) == 12


def test_states_are_saved_with_what_was_evicted(tiny_model):
    prompt = random_tokens(600, 1)
    with opened(tiny_model(SPEC)) as llama:
        expected = answer(llama, prompt)
        before, state = llama.kept(), llama.save_state()
        answer(llama, random_tokens(700, 2))
        llama.load_state(pickle.loads(pickle.dumps(state)))
        assert llama.kept() == before
        assert answer(llama, prompt) == expected
        llama.set_cache(llama_cpp.LlamaRAMCache())
        texts = [complete(llama, prompt) for _ in range(2)]
        complete(llama, random_tokens(700, 2))
        assert complete(llama, prompt) == texts[0] == texts[1]


def test_pickle(tiny_model):
    with opened(tiny_model(SPEC), policy="dapq", type_k="q8_0", flash_attn=True) as llama:
        again = pickle.loads(pickle.dumps(llama))
        assert (again.n_ctx(), again.usage.n_cells, again.cache_types) == (4096, llama.usage.n_cells, ("q8_0", "f16"))
        prompt = random_tokens(600, 1)
        assert answer(again, prompt) == answer(llama, prompt)
        again.close()


def test_logprobs_of_what_was_evicted(tiny_model):
    """The log-probabilities are those of the logits, also for the first token after an eviction."""
    with opened(tiny_model(SPEC), logits_all=True) as llama:
        choice = llama.create_completion(random_tokens(500, 1), max_tokens=5, temperature=0, logprobs=2)["choices"][0]
        scores = llama.scores[499 : 499 + len(choice["logprobs"]["tokens"])].astype(np.float64)
        expected = scores.max(axis=1) - np.log(np.exp(scores).sum(axis=1))
        np.testing.assert_allclose(choice["logprobs"]["token_logprobs"], expected, rtol=1e-4)
        assert llama.usage.n_evictions > 0


def test_grammar_and_draft_model(tiny_model):
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    prompt = random_tokens(400, 1)
    grammar = llama_cpp.LlamaGrammar.from_string('root ::= "a" "b"*', verbose=False)
    with opened(tiny_model(SPEC)) as llama:
        assert set(complete(llama, prompt, grammar=grammar).replace("▁", "").strip()) <= set("ab")
    with opened(tiny_model(SPEC), kv_budget=1000) as plain:
        expected = answer(plain, prompt * 2, 60)
    with opened(tiny_model(SPEC), kv_budget=1000, draft_model=LlamaPromptLookupDecoding()) as drafted:
        assert answer(drafted, prompt * 2, 60) == expected
    with opened(tiny_model(SPEC), draft_model=LlamaPromptLookupDecoding()) as drafted:
        assert len(answer(drafted, prompt * 2, 900)) == 900 and drafted.usage.n_evictions > 1


def test_embeddings_are_untouched(tiny_model):
    texts = ["a b c", "d e"]
    with opened(tiny_model(SPEC), embedding=True) as ours, stock(tiny_model(SPEC), embedding=True) as theirs:
        assert ours.create_embedding(texts) == theirs.create_embedding(texts)


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
        assert answer(llama, prompt) == expected and llama.usage.n_cells_used == 111


def test_reading_can_be_stopped(tiny_model):
    with opened(tiny_model(SPEC)) as llama:
        calls = []
        llama.set_abort(lambda: calls.append(1) or len(calls) == 3)
        with pytest.raises(AbortedError):
            answer(llama, random_tokens(3000, 1))
        llama.set_abort(None)
        assert llama.usage.n_tokens == 0 and len(answer(llama, random_tokens(3000, 1))) == 12


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
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                set_decode(patch, interrupted)
                answer(llama, prompt, 60)
            assert answer(llama, prompt) == expected


def test_wrong_arguments(tiny_model, tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"GGUX")
    for path in (tmp_path / "no.gguf", tmp_path / "missing.gguf"):
        # as llama_cpp.Llama does
        with pytest.raises(ValueError) as caught:
            Llama(path)
        assert isinstance(caught.value, ModelError)
    for options in ({"kv_budget": -5}, {"kv_budget": "1.5"}, {"policy": "no"}, {"policy": "h2o"}, {"kv_budget": "0%"}):
        with pytest.raises(UsageError):
            Llama(tiny_model(SPEC), verbose=False, **options)


def test_memory_without_cells(tmp_path):
    """Such a model answers as llama.cpp lets it, but not with a budget."""
    path, prompt = write_recurrent_gguf(tmp_path / "mamba.gguf"), random_tokens(100, 1)
    with opened(path, kv_budget="auto", n_ctx=512) as ours, stock(path, n_ctx=512) as theirs:
        assert answer(ours, prompt) == answer(theirs, prompt)
    with pytest.raises(DapqError, match="cannot be evicted"):
        Llama(path, kv_budget=100, verbose=False)
