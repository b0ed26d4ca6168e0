"""TriAttention (arXiv 2604.04921): what keys will draw, by the mean query before it is rotated, at later positions."""

from dataclasses import dataclass

import numpy as np

from .transformer import Transformer

# tokens that queries come next, and how many are observed
DISTANCES, N_OBSERVED = 2 ** np.arange(17), 512


@dataclass
class Centers:
    """Of each full-attention layer, the queries of its heads before their rotation: complex64 [query heads, pairs].

    Attributes:
        mean: Their mean.
        length: The mean of their lengths: float32.
    """

    model: Transformer
    mean: list[np.ndarray]
    length: list[np.ndarray]

    def scores(self, i: int, keys: np.ndarray, pos: int) -> np.ndarray:
        """Return the scores of keys, which stand where they are rotated to, for a text that goes on at `pos`.

        i: number of the layer among the full-attention ones. keys: float32 [KV heads, cells, head_dim]. Returns float32
        [KV heads, cells]: the sum over the pairs of the mean query times the key at each distance, mean over these, and
        of the lengths where queries are not concentrated; standardised for each query head, and the largest of them.
        """
        mean, length = self.mean[i], self.length[i]
        k = np.repeat(as_complex(keys, self.model.is_gemma), self.model.n_group, axis=0)
        turned = np.exp(1j * (pos + DISTANCES)[:, None] * frequencies(self.model)).mean(axis=0)
        towards = np.real((mean * turned)[:, None] * k.conj()).sum(axis=-1)
        spread = ((length - np.abs(mean))[:, None] * np.abs(k)).sum(axis=-1)
        scores = towards + spread
        scores = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
        return scores.reshape(len(keys), -1, scores.shape[-1]).max(axis=1).astype(np.float32)


def observe(model: Transformer, tokens: np.ndarray) -> Centers:
    """Read a text, and return the centers of its queries."""
    tokens = tokens[:N_OBSERVED]
    back = np.exp(-1j * np.arange(len(tokens))[:, None] * frequencies(model))
    means, lengths = [], []
    for il, (seen, _) in enumerate(model.layers(tokens, 0, [{}])):
        if not model.has_window(il):
            queries = as_complex(seen.queries, model.is_gemma) * back
            means.append(queries.mean(axis=1))
            lengths.append(np.abs(queries).mean(axis=1))
    return Centers(model, means, lengths)


def frequencies(model: Transformer) -> np.ndarray:
    half = model.head_dim // 2
    return model.base ** (-np.arange(half) / half)


def as_complex(x: np.ndarray, is_gemma: bool) -> np.ndarray:
    """The pairs that are rotated together: complex [..., head_dim / 2]."""
    half = x.shape[-1] // 2
    a, b = (x[..., :half], x[..., half:]) if is_gemma else (x[..., 0::2], x[..., 1::2])
    return a + 1j * b
