"""`dapq_edge.llama.Llama`: reading, answering, and what it shares with `llama_cpp.Llama`."""

import llama_cpp
import pytest
from test_probe import random_tokens
from tiny import Spec

from dapq_edge.budgets import Budget
from dapq_edge.errors import DapqError, UsageError
from dapq_edge.llama import Llama
from dapq_edge.policies import get_policy

ALL = Budget.parse("100%")


@pytest.fixture
def llama(tiny_model):
    llama = Llama(tiny_model(Spec(n_ctx=2048)), n_threads=2, seed=0)
    yield llama
    llama.close()


def test_full_policy_is_llama_cpp(tiny_model, llama):
    """The same tokens as `llama_cpp.Llama` generates, also after a second prompt."""
    stock = llama_cpp.Llama(str(tiny_model(Spec(n_ctx=2048))), n_ctx=1024, n_threads=2, flash_attn=True, verbose=False)
    llama.open_context(1024)
    for prompt in (random_tokens(700, 1), random_tokens(300, 2)):
        llama.read(prompt, get_policy("full"), ALL)
        ours = [token for token, _ in zip(llama.generate([], reset=False, temp=0), range(20), strict=False)]
        theirs = [token for token, _ in zip(stock.generate(prompt, temp=0), range(20), strict=False)]
        assert ours == theirs
    stock.close()


def test_progress_and_stats(llama):
    llama.open_context(1500)
    seen = []
    stats = llama.read(random_tokens(1300, 1), get_policy("dapq"), Budget.parse("100"), seen.append)
    assert seen == [512, 1024, 1300]
    assert (stats.cells_read, stats.cells_kept) == (1300, 100)
    assert stats.bytes_kept * 13 == stats.bytes_read
    assert llama.kv_cache.n_cells == 100
    # decoding goes on at the position after the prompt
    assert len(list(llama.stream(5))) == 5
    assert llama.kv_cache.positions[-1] == 1303


def test_refuses_before_it_reads(llama):
    llama.open_context(256)
    seen = []
    with pytest.raises(DapqError, match="the prompt has 257 tokens, but the context has 256 cells"):
        llama.read(random_tokens(257, 1), get_policy("dapq"), ALL, seen.append)
    with pytest.raises(UsageError, match="always keeps 12 cells"):
        llama.read(random_tokens(100, 1), get_policy("dapq"), Budget.parse("5"), seen.append)
    assert seen == []
    # a prompt that leaves no room for the probe
    with pytest.raises(DapqError, match="no 32 free cells"):
        llama.read(random_tokens(250, 1), get_policy("dapq"), Budget.parse("50%"))
    llama.read(random_tokens(250, 1), get_policy("streaming"), Budget.parse("50%"))
    assert llama.kv_cache.n_cells == 125


def test_seed_of_zero(llama):
    llama.open_context(512)
    answers = set()
    for _ in range(3):
        llama.read(random_tokens(100, 1), get_policy("full"), ALL)
        answers.add("".join(llama.stream(10, temp=2.0)))
    assert len(answers) == 1


def test_prompt_without_template(llama):
    """Of a base model: the message as text, between BOS and "Answer:"."""
    tokens = llama.chat_tokens("  Why? </s>", "Because")
    assert tokens[0] == llama.token_bos() and tokens.count(llama.token_eos()) == 0
    # the vocabulary of the tiny models has no space, so that SentencePiece's mark for one stays
    text = llama.detokenize(tokens[1:]).decode().replace("▁", " ")
    assert text.split() == ["Why?", "</s>", "Answer:", "Because"]
