"""KL divergence to the full cache: the rows that it is measured on."""

import json

import numpy as np
import pytest
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import open_model
from dapq_edge.calibration.divergence import kl_divergence, log_probabilities
from dapq_edge.errors import DapqError
from dapq_edge.evaluation.fidelity import cut_prompt, fidelity_cases
from dapq_edge.eviction.budget import parse_budget
from dapq_edge.eviction.policies import get_policy


def test_evicting_nothing_has_no_divergence(tiny_model):
    """And evicting something has: the same tokens are read after both caches."""
    engine = open_model(tiny_model(Spec(n_ctx=2048)), n_threads=1)
    engine.read(random_tokens(300, 1), get_policy("full"), parse_budget("100%"), n_predict=64)
    state = engine.cache.state(of_context=True)
    tokens, _ = engine.cache.look_ahead(10)
    engine.cache.restore(state)
    full = log_probabilities(engine.cache, tokens)
    np.testing.assert_allclose(np.exp(full).sum(axis=1), 1)
    divergence = {}
    for n_keep in (300, 50):
        engine.cache.restore(state)
        get_policy("dapq").evict(engine.cache, n_keep)
        divergence[n_keep] = kl_divergence(full, log_probabilities(engine.cache, tokens))
    assert abs(divergence[300]) < 1e-9 < divergence[50]
    engine.close()


def test_rows(tmp_path, tiny_model):
    path = tmp_path / "news.jsonl"
    path.write_text(json.dumps({"context": "word " * 200}) + "\n{}\n")
    engine = open_model(tiny_model(Spec(n_ctx=2048)), n_threads=1)
    cases = fidelity_cases(path, 5, 600, 8, engine.model)
    prompt = next(cases).prompt(engine)
    assert len(prompt) == 600
    assert prompt.has_question
    assert cut_prompt(engine.model, "word " * 200, "What?", 5000) is None
    with pytest.raises(DapqError, match="line 2: not a row of LongBench"):
        next(cases)
    engine.close()
