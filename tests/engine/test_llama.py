"""`dapq_edge.engine.Llama`: reading, answering, and what it shares with `llama_cpp.Llama`."""

import llama_cpp
import pytest
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import Control, open_model
from dapq_edge.errors import DapqError, UsageError
from dapq_edge.eviction.budget import parse_budget
from dapq_edge.eviction.policies import get_policy
from dapq_edge.llamacpp import native
from dapq_edge.llamacpp.context import CACHE_TYPES
from dapq_edge.prompt.chat_template import chat_prompt
from dapq_edge.reading.plan import ReadMode

ALL = parse_budget("100%")


@pytest.fixture
def engine(tiny_model):
    engine = open_model(tiny_model(Spec(n_ctx=2048)), n_threads=2, seed=0)
    yield engine
    engine.close()


def test_full_policy_is_llama_cpp(tiny_model, engine):
    """The same tokens as `llama_cpp.Llama` generates, also after a second prompt."""
    stock = llama_cpp.Llama(str(tiny_model(Spec(n_ctx=2048))), n_ctx=1024, n_threads=2, flash_attn=True, verbose=False)
    for prompt in (random_tokens(700, 1), random_tokens(300, 2)):
        engine.read(prompt, get_policy("full"), ALL, n_cells=1024)
        theirs = [token for token, _ in zip(stock.generate(prompt, temp=0), range(20), strict=False)]
        assert engine.cache.look_ahead(20)[0] == theirs
    stock.close()


def test_one_shot(engine):
    """Everything is read, then evicted, then the memory of the freed cells is given back."""
    seen = []
    stats = engine.read(
        random_tokens(1300, 1),
        get_policy("dapq"),
        parse_budget("100"),
        n_predict=100,
        one_shot=True,
        control=Control(lambda done, total: seen.append((done, total))),
    )
    assert seen == [(512, 1300), (1024, 1300), (1300, 1300)]
    assert (stats.mode, stats.tokens_evaluated, stats.chunks) == (ReadMode.FULL, 1300, [])
    assert (stats.cells_peak, stats.cells_kept) == (1536, 100)
    assert stats.bytes_kept * 1536 == pytest.approx(stats.bytes_peak * 100, rel=0.03)
    assert native.n_cells(engine.cache.ctx) == 256
    assert engine.cache.n_cells == 100
    # decoding goes on at the position after the prompt
    assert len(list(engine.stream(5))) == 5
    assert engine.cache.next_position == 1304


def test_refuses_before_it_reads(engine):
    seen = []
    watched = Control(lambda done, total: seen.append(done))

    def read(n_tokens, policy, budget, **options):
        engine.read(random_tokens(n_tokens, 1), get_policy(policy), parse_budget(budget), control=watched, **options)

    with pytest.raises(DapqError, match="reading needs 257 cells: raise n_ctx=256"):
        read(257, "full", "100%", n_predict=0, n_cells=256)
    with pytest.raises(UsageError, match="always keeps 12 cells"):
        read(100, "dapq", "5")
    with pytest.raises(
        DapqError, match=r"2,048 tokens are read at once, but the model was trained for 2,048: .*overflow"
    ):
        read(2048, "dapq", "100")
    assert seen == []


def test_reading_goes_on_after_a_context_that_cannot_be_opened(tiny_model):
    engine = open_model(tiny_model(Spec()), n_threads=1, flash_attn="off")
    options, tokens = engine.model._llama.context_params, random_tokens(100, 1)
    # llama.cpp has no quantized V without flash attention
    options.type_v = CACHE_TYPES["q4_0"]
    for _ in range(2):
        with pytest.raises(DapqError, match="cannot open a context"):
            engine.read(tokens, get_policy("dapq"), parse_budget("50"))
    options.type_v = CACHE_TYPES["f16"]
    assert engine.read(tokens, get_policy("dapq"), parse_budget("50")).cells_kept == 50
    engine.close()


def test_seed_of_zero(engine):
    answers = set()
    for _ in range(3):
        engine.read(random_tokens(100, 1), get_policy("full"), ALL)
        answers.add("".join(engine.stream(10, temp=2.0)))
    assert len(answers) == 1


def test_prompt_without_template(engine):
    """Of a base model: the message as text, between BOS and "Answer:"."""
    tokens = chat_prompt(engine.model, "  Why? </s>", answer_prefix="Because").tokens
    assert tokens[:1] == engine.model.start_tokens
    assert not any(map(engine.model.is_end, tokens))
    # the vocabulary of the tiny models has no space, so that SentencePiece's mark for one stays
    text = engine.model.detokenize(tokens[1:], special=False).decode().replace("▁", " ")
    assert text.split() == ["Why?", "</s>", "Answer:", "Because"]
