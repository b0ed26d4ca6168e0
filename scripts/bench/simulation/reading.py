"""A prompt that the numpy model has read: its full cache, its answer, what queries see, and how far others diverge."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .transformer import Cache, Cells, LayerSeen, Transformer, log_softmax

# tokens that are read at once
CHUNK = 512


@dataclass
class Reading:
    """A prompt and what was read of it.

    Attributes:
        model: Reads it.
        tokens: Integers [n].
        k, v: Of each layer: float32 [KV heads, n, head_dim].
        answer: The greedy answer of the full cache: integers.
    """

    model: Transformer
    tokens: np.ndarray
    k: list[np.ndarray]
    v: list[np.ndarray]
    answer: np.ndarray

    @property
    def n(self) -> int:
        """Cells of the full cache."""
        return len(self.tokens)

    def full(self, n: int | None = None) -> Cache:
        """All cells, or those before position `n`; of a sliding window, those that it still sees."""
        n = self.n if n is None else n
        first = {il: max(0, n - self.model.window + 1) if self.model.has_window(il) else 0 for il in range(len(self.k))}
        return {
            il: [Cells(k[start:n], v[start:n]) for k, v in zip(self.k[il], self.v[il], strict=True)]
            for il, start in first.items()
        }

    def probe(self, tokens: np.ndarray, pos: int | None = None) -> list[LayerSeen]:
        """What tokens at `pos`, by default behind the prompt, do in the full-attention layers."""
        pos = self.n if pos is None else pos
        layers = enumerate(self.model.layers(tokens, pos, [self.full(pos)]))
        return [seen for il, (seen, _) in layers if not self.model.has_window(il)]

    def log_probabilities(self, caches: list[Cache], tokens: np.ndarray) -> Iterator[np.ndarray]:
        """Of what comes behind each of the tokens that follow the prompt, for caches that have other cells.

        Gives float32 [tokens, n_vocab] for each of them, one after the other: a vocabulary is large.
        """
        *_, (_, x) = self.model.layers(tokens, self.n, [self.full() | cache for cache in caches])
        for each in x:
            yield log_softmax(self.model.logits(each))


def read(model: Transformer, tokens: np.ndarray, n_answer: int, is_end: Callable[[int], bool]) -> Reading:
    """Read a prompt and write the answer, to its end or so many tokens."""
    shape = (model.n_head_kv, len(tokens) + n_answer, model.head_dim)
    k, v = ([np.empty(shape, np.float32) for _ in range(model.n_layer)] for _ in range(2))
    reading = Reading(model, tokens[:0], k, v, tokens[:0])
    for start in range(0, len(tokens), CHUNK):
        x = _append(reading, tokens[start : start + CHUNK])
    answer: list[int] = []
    while len(answer) < n_answer and not (answer and is_end(answer[-1])):
        answer.append(int(model.logits(x[:, -1]).argmax()))
        x = _append(reading, np.array(answer[-1:]))
    of_prompt = [[layer[:, : len(tokens)] for layer in layers] for layers in (k, v)]
    return Reading(model, tokens, *of_prompt, answer=np.array(answer))


def _append(reading: Reading, tokens: np.ndarray) -> np.ndarray:
    """Read tokens behind the others; returns what comes out of the last layer: float32 [1, tokens, n_embd]."""
    place = slice(reading.n, reading.n + len(tokens))
    result = np.empty(0)
    for il, (seen, x) in enumerate(reading.model.layers(tokens, reading.n, [reading.full() if reading.n else {}])):
        reading.k[il][:, place], reading.v[il][:, place], result = seen.k, seen.v, x
    reading.tokens = np.concatenate([reading.tokens, tokens])
    return result
