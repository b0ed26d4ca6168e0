"""`dapq_edge.llama.Llama`: reading, answering, and what it shares with `llama_cpp.Llama`."""

import llama_cpp
import pytest
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import native
from dapq_edge.budgets import Budget
from dapq_edge.context import CACHE_TYPES
from dapq_edge.errors import DapqError, UsageError
from dapq_edge.policies import get_policy
from dapq_edge.prompts import chat_prompt
from dapq_edge.reader import Way
from dapq_edge.reading import ReadingLlama

ALL = Budget.parse("100%")


@pytest.fixture
def llama(tiny_model):
    llama = ReadingLlama(tiny_model(Spec(n_ctx=2048)), n_threads=2, seed=0)
    yield llama
    llama.close()


def test_full_policy_is_llama_cpp(tiny_model, llama):
    """The same tokens as `llama_cpp.Llama` generates, also after a second prompt."""
    stock = llama_cpp.Llama(str(tiny_model(Spec(n_ctx=2048))), n_ctx=1024, n_threads=2, flash_attn=True, verbose=False)
    for prompt in (random_tokens(700, 1), random_tokens(300, 2)):
        llama.read(prompt, get_policy("full"), ALL, n_cells=1024)
        ours = [token for token, _ in zip(llama.generate([], reset=False, temp=0), range(20), strict=False)]
        theirs = [token for token, _ in zip(stock.generate(prompt, temp=0), range(20), strict=False)]
        assert ours == theirs
    stock.close()


def test_one_shot(llama):
    """Everything is read, then evicted, then the memory of the freed cells is given back."""
    seen = []
    stats = llama.read(
        random_tokens(1300, 1),
        get_policy("dapq"),
        Budget.parse("100"),
        n_predict=100,
        one_shot=True,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(512, 1300), (1024, 1300), (1300, 1300)]
    assert (stats.way, stats.tokens_evaluated, stats.chunks) == (Way.ALL, 1300, [])
    assert (stats.cells_peak, stats.cells_kept) == (1536, 100)
    assert stats.bytes_kept * 1536 == stats.bytes_peak * 100
    assert native.n_cells(llama._ctx.ctx) == 256
    assert llama.kv_cache.n_cells == 100
    # decoding goes on at the position after the prompt
    assert len(list(llama.stream(5))) == 5
    assert llama.kv_cache.next_position == 1304


def test_refuses_before_it_reads(llama):
    seen = []

    def read(n_tokens, policy, budget, **options):
        llama.read(
            random_tokens(n_tokens, 1), get_policy(policy), Budget.parse(budget), progress=seen.append, **options
        )

    with pytest.raises(DapqError, match="reading needs 257 cells: raise -c 256"):
        read(257, "full", "100%", n_predict=0, n_cells=256)
    with pytest.raises(UsageError, match="always keeps 12 cells"):
        read(100, "dapq", "5")
    with pytest.raises(
        DapqError, match="2,048 tokens are read at once, but the model was trained for 2,048: .*overflow"
    ):
        read(2048, "dapq", "100")
    assert seen == []


def test_reading_goes_on_after_a_context_that_cannot_be_opened(tiny_model):
    llama = ReadingLlama(tiny_model(Spec()), n_threads=2, flash_attn="off")
    llama.context_params.type_v = CACHE_TYPES["q4_0"]
    tokens = random_tokens(100, 1)
    for _ in range(2):
        with pytest.raises(DapqError, match="cannot open a context"):
            llama.read(tokens, get_policy("dapq"), Budget.parse("50"))
    llama.context_params.type_v = CACHE_TYPES["f16"]
    assert llama.read(tokens, get_policy("dapq"), Budget.parse("50")).cells_kept == 50
    llama.close()


def test_seed_of_zero(llama):
    answers = set()
    for _ in range(3):
        llama.read(random_tokens(100, 1), get_policy("full"), ALL)
        answers.add("".join(llama.stream(10, temp=2.0)))
    assert len(answers) == 1


def test_prompt_without_template(llama):
    """Of a base model: the message as text, between BOS and "Answer:"."""
    tokens = chat_prompt(llama, "  Why? </s>", answer_prefix="Because").tokens
    assert tokens[0] == llama.token_bos() and tokens.count(llama.token_eos()) == 0
    # the vocabulary of the tiny models has no space, so that SentencePiece's mark for one stays
    text = llama.detokenize(tokens[1:]).decode().replace("▁", " ")
    assert text.split() == ["Why?", "</s>", "Answer:", "Because"]
