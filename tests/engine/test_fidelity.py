"""KL divergence to the full cache: the numbers, and the rows that it is measured on."""

import json

import numpy as np
import pytest
from test_probe import random_tokens
from tiny import Spec

from dapq_edge.budgets import Budget
from dapq_edge.errors import DapqError
from dapq_edge.evaluation.fidelity import cut_prompt, fidelity_cases, kl_divergence, log_probabilities, recall, rouge_l
from dapq_edge.evaluation.snapshot import Snapshot
from dapq_edge.policies import get_policy
from dapq_edge.reading import ReadingLlama


def test_kl_divergence():
    p, q = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    assert kl_divergence(p, p) == 0
    assert kl_divergence(p, q) == pytest.approx((0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 2)


def test_recall():
    """Of what the oracle would choose for each head, without what is always kept."""
    scores = [np.array([[0, 9, 8, 1, 2, 0], [0, 1, 2, 8, 9, 0]], dtype=np.float32)]
    assert recall([np.array([[0, 1, 2, 5], [0, 3, 4, 5]])], scores, 1, 1) == 1
    assert recall([np.array([[0, 1, 4, 5], [0, 1, 2, 5]])], scores, 1, 1) == 0.25
    assert recall([np.array([[0, 5], [0, 5]])], scores, 1, 1) == 1


def test_rouge_l():
    pytest.importorskip("rouge_score")
    assert rouge_l("the cat sat", ["nothing", "the cat sat"]) == 1
    assert rouge_l("the cat", ["the big cat sat"]) == pytest.approx(2 / 3)


def test_evicting_nothing_has_no_divergence(tiny_model):
    """And evicting something has: the same tokens are read after both caches."""
    llama = ReadingLlama(tiny_model(Spec(n_ctx=2048)), n_threads=2)
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
    llama = ReadingLlama(tiny_model(Spec(n_ctx=2048)), n_threads=2)
    cases = fidelity_cases(path, 5, 600, 8, llama)
    prompt = next(cases).prompt(llama)
    assert len(prompt) == 600 and prompt.has_question
    assert cut_prompt(llama, "word " * 200, "What?", 5000) is None
    with pytest.raises(DapqError, match="line 2: not a row of LongBench"):
        next(cases)
    llama.close()
