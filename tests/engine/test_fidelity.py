"""KL divergence to the full cache: the rows that it is measured on."""

import json

import numpy as np
import pytest
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge.budgets import Budget
from dapq_edge.errors import DapqError
from dapq_edge.evaluation.fidelity import cut_prompt, fidelity_cases, kl_divergence, log_probabilities
from dapq_edge.evaluation.snapshot import Snapshot
from dapq_edge.policies import get_policy
from dapq_edge.reading import ReadingLlama


def test_evicting_nothing_has_no_divergence(tiny_model):
    """And evicting something has: the same tokens are read after both caches."""
    llama = ReadingLlama(tiny_model(Spec(n_ctx=2048)), n_threads=1, n_threads_batch=1)
    llama.read(random_tokens(300, 1), get_policy("full"), Budget.parse("100%"), n_predict=64)
    snapshot = Snapshot(llama)
    tokens, _ = llama.kv_cache.look_ahead(10)
    snapshot.restore()
    full = log_probabilities(llama.kv_cache, tokens)
    np.testing.assert_allclose(np.exp(full).sum(axis=1), 1)
    divergence = {}
    for n_keep in (300, 50):
        snapshot.restore()
        get_policy("dapq").evict(llama.kv_cache, n_keep)
        divergence[n_keep] = kl_divergence(full, log_probabilities(llama.kv_cache, tokens))
    assert abs(divergence[300]) < 1e-9 < divergence[50]
    llama.close()


def test_rows(tmp_path, tiny_model):
    path = tmp_path / "news.jsonl"
    path.write_text(json.dumps({"context": "word " * 200}) + "\n{}\n")
    llama = ReadingLlama(tiny_model(Spec(n_ctx=2048)), n_threads=1, n_threads_batch=1)
    cases = fidelity_cases(path, 5, 600, 8, llama)
    prompt = next(cases).prompt(llama)
    assert len(prompt) == 600 and prompt.has_question
    assert cut_prompt(llama, "word " * 200, "What?", 5000) is None
    with pytest.raises(DapqError, match="line 2: not a row of LongBench"):
        next(cases)
    llama.close()
