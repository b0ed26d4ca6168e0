"""Tokens that many tests read: a prompt, and what is probed or decoded after it."""

import numpy as np

from .tiny import N_VOCAB

N_PROMPT = 75
N_PROBE = 11
HEADS = {"mha": (4, 4), "gqa": (4, 2), "mqa": (4, 1)}


def random_tokens(n: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, N_VOCAB, n).tolist()


PROMPT = random_tokens(N_PROMPT, 1)
PROBE = random_tokens(N_PROBE, 2)
