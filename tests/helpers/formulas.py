"""Scores of each policy by its paper's formula, in plain numpy."""

import numpy as np

from dapq_edge.cache.kv_cache import KVCache

from .context import Context
from .gathered import Reference
from .profiles import random_profile
from .tiny import N_VOCAB, Spec, forward
from .tokens import random_tokens

SPEC = Spec(n_ctx=8192)
L = 90
TOKENS = random_tokens(L, 11)
FILLER = np.random.default_rng(0).integers(N_VOCAB, size=32).tolist()


def attention_of(queries: list[int], pos: int = L) -> np.ndarray:
    """What queries at `pos` and after it pay to each token of the prompt before them: [layer, query head, query, L]."""
    tokens = TOKENS[:pos] + queries
    weights, _ = forward(SPEC, tokens, list(range(len(tokens))), "f16", "f16")
    seen = np.zeros((*weights.shape[:2], len(queries), L))
    seen[..., :pos] = weights[:, :, pos:, :pos]
    return seen


def smooth(x: np.ndarray) -> np.ndarray:
    """Average over 5 neighbours along the last axis."""
    return np.apply_along_axis(lambda row: np.convolve(row, np.ones(5) / 5, mode="same"), -1, x)


def kv_heads(x: np.ndarray) -> np.ndarray:
    """Mean over the query heads of a KV head: [layer, KV head, L]."""
    return x.reshape(len(x), SPEC.n_head_kv, -1, L).mean(axis=2)


def snapkv_formula(window: int = 32) -> np.ndarray:
    return kv_heads(smooth(attention_of(TOKENS[-window:], L - window).mean(axis=2)))


def dapq_formula(queries: list[int], pooled: float = 1) -> np.ndarray:
    largest = attention_of(queries).max(axis=2)
    scores = largest + pooled * smooth(largest)
    return kv_heads(scores / scores[..., 4:-8].sum(axis=-1, keepdims=True))


def greedy(reference: Reference, n: int) -> list[int]:
    """The next tokens, decoded one after the other."""
    tokens = []
    for pos in range(L, L + n):
        tokens.append(int(reference.logits.argmax()))
        reference.decode(tokens[-1:], pos)
    return tokens


def answer(n: int) -> list[int]:
    return greedy(Reference(SPEC, TOKENS), n)


def laq_guess(n_keep: int) -> list[int]:
    """What follows after the cells that SnapKV keeps; the first token comes from the whole prompt."""
    reference, window = Reference(SPEC, TOKENS), min(32, n_keep // 2)
    tokens = [int(reference.logits.argmax())]
    candidates = snapkv_formula(window)[:, :, 4 : L - window]
    best = np.argsort(candidates, axis=-1, kind="stable")[..., -(n_keep - 4 - window) :] + 4
    always = [*range(4), *range(L - window, L)]
    reference.gather([[np.sort([*always, *head]) for head in layer] for layer in best])
    for pos in range(L, L + 7):
        reference.decode(tokens[-1:], pos)
        tokens.append(int(reference.logits.argmax()))
    return tokens


def h2o_formula() -> np.ndarray:
    total = sum(attention_of(TOKENS[start : start + 64], start).sum(axis=2) for start in range(0, L, 64))
    return kv_heads(total)


def compresskv_formula() -> np.ndarray:
    """The best four heads of each layer choose for all of its heads."""
    seen, heads = attention_of(TOKENS[-8:], L - 8).mean(axis=2), random_profile(SPEC).retrieval
    best = [seen[il, np.argsort(heads[il])[-4:]].mean(axis=0) for il in range(SPEC.n_layer)]
    return smooth(np.stack(best))[:, None].repeat(SPEC.n_head_kv, axis=1)


def kvzip_formula() -> np.ndarray:
    """The largest attention of the prompt, repeated behind its end in parts of 56 tokens with the 8 before."""
    seen = np.stack([attention_of(part).max(axis=2) for part in (TOKENS[:56], TOKENS[48:])]).max(axis=0)
    return seen.reshape(len(seen), SPEC.n_head_kv, -1, L).max(axis=2)


FORMULAS = {
    "kvzip": kvzip_formula,
    "base+question": lambda: FORMULAS["fused"](),
    "dapq": lambda: dapq_formula(FILLER),
    "fused": lambda: dapq_formula(answer(48) + FILLER[:16], 0.25),
    "oracle": lambda: dapq_formula(answer(48)),
    "snapkv": snapkv_formula,
    "pyramid": lambda: snapkv_formula(8),
    "laq": lambda: kv_heads(smooth(attention_of(laq_guess(40)).mean(axis=2))),
    "laq++": lambda: kv_heads(smooth(attention_of(TOKENS[-8:] + laq_guess(40), L - 8).mean(axis=2))),
    "tova": lambda: attention_of(TOKENS[-1:], L - 1).mean(axis=(1, 2))[:, None].repeat(SPEC.n_head_kv, axis=1),
    "h2o": h2o_formula,
    "compresskv": compresskv_formula,
    "streaming": lambda: np.tile(np.arange(L), (SPEC.n_layer, SPEC.n_head_kv, 1)),
}


def read(path, **options) -> tuple[Context, KVCache]:
    context = Context(path, n_seq_max=2, kv_unified=True, **options)
    cache = KVCache(context.ctx)
    cache.read(TOKENS)
    return context, cache
