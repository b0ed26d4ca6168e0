"""`dapq_edge.Llama`: what it shares with `llama_cpp.Llama`."""

import argparse
import pickle

import llama_cpp
import numpy as np
import pytest
from helpers.llamas import answer, complete, opened, stock
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import Llama
from dapq_edge.cells import MIN_BATCH
from dapq_edge.errors import DapqError, ModelError, UsageError
from dapq_edge.llamacpp import native
from dapq_edge.planning.gguf_shape import read_shape

SPEC = Spec(n_ctx=4096)


def test_a_batch_holds_a_probe(tiny_model):
    with opened(tiny_model(SPEC), kv_budget=256, n_batch=1) as llama:
        assert llama_cpp.llama_n_batch(llama.ctx) == llama_cpp.llama_n_ubatch(llama.ctx) == MIN_BATCH


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
        assert ours.usage.n_cells_used == 1011
        assert ours.usage.n_cells == 4096


def test_auto_counts_the_memory_before_the_model_is_loaded(tiny_model, monkeypatch):
    path = tiny_model(SPEC)
    needed = read_shape(path).total_bytes(1024, "f16", "f16", 512)
    monkeypatch.setattr("dapq_edge.llama.memory_before_loading", lambda n_gpu_layers: int(needed / 0.9) + 2)
    # whoever asks later sees nothing
    monkeypatch.setattr("dapq_edge.planning.ram.psutil.virtual_memory", lambda: argparse.Namespace(available=0))
    with opened(path, kv_budget="auto", cache_ram=0) as llama:
        answer(llama, random_tokens(3000, 1))
        assert llama.usage.n_cells == 1024
        assert 0 < llama.usage.n_cells_used < 1024
        llama.set_eviction(kv_budget=100)
        llama.set_eviction(kv_budget="auto")
        assert llama.usage.n_cells == 1024


def test_states_are_saved_with_what_was_evicted(tiny_model):
    prompt = random_tokens(600, 1)
    with opened(tiny_model(SPEC)) as llama:
        # an answer begins as all cells have it, which are lost; what follows is from those that were kept
        more = [*prompt, *answer(llama, prompt), *random_tokens(20, 3)]
        before, state = llama.kept(), llama.save_state()
        expected = answer(llama, more)
        answer(llama, random_tokens(700, 2))
        llama.load_state(pickle.loads(pickle.dumps(state)))
        assert llama.kept() == before
        assert answer(llama, more) == expected
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


@pytest.mark.parametrize(("n_prompt", "kv_budget"), [(500, 200), (700, 100), (150, 100)])
def test_logprobs_of_what_was_evicted(tiny_model, n_prompt, kv_budget):
    """The log-probabilities are those of the logits, also for the first token after an eviction."""
    prompt = random_tokens(n_prompt, 1)
    with opened(tiny_model(SPEC), logits_all=True, kv_budget=kv_budget) as llama:
        choice = llama.create_completion(prompt, max_tokens=5, temperature=0, logprobs=2)["choices"][0]
        scores = llama.scores[n_prompt - 1 :][: len(choice["logprobs"]["tokens"])].astype(np.float64)
        # each row is of the token that was sampled there
        assert scores[:-1].argmax(axis=1).tolist() == llama.input_ids[n_prompt : n_prompt + len(scores) - 1].tolist()
        expected = scores.max(axis=1) - np.log(np.exp(scores).sum(axis=1))
        np.testing.assert_allclose(choice["logprobs"]["token_logprobs"], expected, rtol=1e-4, atol=1e-6)
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
        assert len(answer(drafted, prompt * 2, 900)) == 900
        assert drafted.usage.n_evictions > 1


def test_embeddings_are_untouched(tiny_model):
    texts = ["a b c", "d e"]
    with opened(tiny_model(SPEC), embedding=True) as ours, stock(tiny_model(SPEC), embedding=True) as theirs:
        assert ours.create_embedding(texts) == theirs.create_embedding(texts)


def test_wrong_arguments(tiny_model, tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"GGUX")
    for path in (tmp_path / "no.gguf", tmp_path / "missing.gguf"):
        # as llama_cpp.Llama does
        with pytest.raises(ValueError, match=r"is not a GGUF file|cannot read") as caught:
            Llama(path)
        assert isinstance(caught.value, ModelError)
    for options in ({"kv_budget": -5}, {"kv_budget": "1.5"}, {"policy": "no"}, {"policy": "h2o"}, {"kv_budget": "0%"}):
        with pytest.raises(UsageError):
            Llama(tiny_model(SPEC), verbose=False, **options)


def test_memory_without_cells(recurrent_model):
    """Such a model answers as llama.cpp lets it, but not with a budget."""
    path, prompt = recurrent_model, random_tokens(100, 1)
    with opened(path, kv_budget="auto", n_ctx=512) as ours, stock(path, n_ctx=512) as theirs:
        assert answer(ours, prompt) == answer(theirs, prompt)
    with pytest.raises(DapqError, match="cannot be evicted"):
        Llama(path, kv_budget=100, verbose=False)


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_of_incomplete_characters_count(tiny_model, stream):
    """For `max_tokens`; the answer says that it was cut. llama-cpp-python would go on to the end of the context."""
    # each character takes three tokens
    grammar = llama_cpp.LlamaGrammar.from_string('root ::= "\u20ac"{100}', verbose=False)
    with opened(tiny_model(SPEC)) as llama:
        for n_tokens, n_whole in ((4, 1), (5, 1), (6, 2)):
            made = llama.create_completion("a", max_tokens=n_tokens, grammar=grammar, stream=stream)
            *_, last = chunks = list(made) if stream else [made]
            assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "\u20ac" * n_whole
            assert last["choices"][0]["finish_reason"] == "length"
            assert llama.timings.n_predicted == n_tokens
        # tokens that nobody asked to be counted have no limit
        assert len(answer(llama, llama.tokenize(b"a"), 40)) == 40


def test_answers_differ_after_every_start(tiny_model):
    """Without a seed, or with llama.cpp's number for that; with one they do not."""

    def text(**options):
        with opened(tiny_model(SPEC), **options) as llama:
            # any token is as likely as another
            hot = {"temperature": 100.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
            return llama.create_completion("a", max_tokens=16, **hot)["choices"][0]["text"]

    assert len({text(), text(), text(seed=llama_cpp.LLAMA_DEFAULT_SEED)}) == 3
    assert text(seed=3) == text(seed=3)
