"""KL divergence, recall and ROUGE-L: the numbers."""

import numpy as np
import pytest

from dapq_edge.calibration.divergence import kl_divergence
from dapq_edge.evaluation.fidelity import oracle_recall, rouge_l


def test_kl_divergence():
    p, q = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    assert kl_divergence(p, p) == 0
    assert kl_divergence(p, q) == pytest.approx((0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 2)


def test_recall():
    """Of what the oracle would choose for each head, without what is always kept."""
    scores = [np.array([[0, 9, 8, 1, 2, 0], [0, 1, 2, 8, 9, 0]], dtype=np.float32)]
    assert oracle_recall([np.array([[0, 1, 2, 5], [0, 3, 4, 5]])], scores, 1, 1) == 1
    assert oracle_recall([np.array([[0, 1, 4, 5], [0, 1, 2, 5]])], scores, 1, 1) == 0.25
    assert oracle_recall([np.array([[0, 5], [0, 5]])], scores, 1, 1) == 1


def test_rouge_l():
    pytest.importorskip("rouge_score")
    assert rouge_l("the cat sat", ["nothing", "the cat sat"]) == 1
    assert rouge_l("the cat", ["the big cat sat"]) == pytest.approx(2 / 3)
