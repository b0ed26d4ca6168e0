"""What has to hold for each family of models, on any of its models."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from dapq_edge import Llama
from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.llamacpp.native import ProbeType
from dapq_edge.reading.stats import Usage

from .attention import attention
from .context import Context
from .families import Family

OPTIONS = {"n_threads": 1, "n_threads_batch": 1, "verbose": False}


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[KVCache]:
    with Context(path, n_seq_max=2, kv_unified=True, **options) as c:
        yield KVCache(c.ctx)


def probe_error(path: Path, family: Family, prompt: list[int], queries: list[int], flash_attn: bool = True) -> float:
    """The largest difference of an attention weight from numpy's, relative to the largest of its layer."""
    expected = attention(path, family, prompt, queries)
    with opened(path, flash_attn=flash_attn) as cache:
        cache.read(prompt)
        layers = cache.probe(queries, len(prompt), ProbeType.NONE)
    assert tuple(layer.layer for layer in layers) == family.full_layers
    errors = []
    for layer in layers:
        weights = expected[layer.layer]
        assert layer.attention.shape == weights.shape
        errors.append(np.abs(layer.attention - weights).max() / weights.max())
    return float(max(errors))


def eviction_error(path: Path, prompt: list[int], queries: list[int], n_gpu_layers: int = 0) -> float:
    """How far the attention in the first evicted layer is from that to the cells that each head kept, made 1 again.

    The layers before it are as they were, and so are its queries. Relative to the largest attention.
    """
    n_keep, rng = len(prompt) // 2, np.random.default_rng(5)
    with opened(path, n_gpu_layers=n_gpu_layers) as cache:
        cache.read(prompt)
        heads = cache.gathered_heads()
        keep = [np.sort([rng.permutation(len(prompt))[:n_keep] for _ in range(n)]) for n in heads.values()]
        before = cache.probe(queries, len(prompt), ProbeType.NONE)[0]
        cache.evict(keep)
        assert cache.n_cells == n_keep
        after = cache.probe(queries, len(prompt), ProbeType.NONE)[0].attention
    n_head, n_queries, _ = before.attention.shape
    kept = np.repeat(keep[0], n_head // keep[0].shape[0], axis=0)[:, None, :]
    left = np.take_along_axis(before.attention, np.broadcast_to(kept, (n_head, n_queries, n_keep)), axis=2)
    # what the queries pay to themselves and to sinks of the model stays, too
    lost = before.attention.sum(axis=2, keepdims=True) - left.sum(axis=2, keepdims=True)
    expected = left / (1 - lost)
    return float(np.abs(after - expected).max() / expected.max())


def read_in_few_cells(path: Path, prompt: list[int], kv_budget: int, n_predict: int = 8) -> tuple[int, Usage]:
    """Tokens that the drop-in answers to a prompt, and what that took."""
    llama = Llama(path, kv_budget=kv_budget, n_ctx=len(prompt) + 256, **OPTIONS)
    try:
        return len(list(islice(llama.generate(prompt, temp=0), n_predict))), llama.usage
    finally:
        llama.close()


def is_unchanged(path: Path, prompt: list[int], kv_budget: str | int, n_predict: int = 8) -> bool:
    """Whether tokens and logits are those of `llama_cpp.Llama` to the bit."""
    options = OPTIONS | {"n_ctx": len(prompt) + 256}
    seen = []
    for llama in (Llama(path, kv_budget=kv_budget, **options), llama_cpp.Llama(str(path), **options)):
        tokens = list(islice(llama.generate(prompt, temp=0), n_predict))
        seen.append((tokens, llama_cpp.llama_get_logits_ith(llama.ctx, -1)[: llama.n_vocab()]))
        llama.close()
    return seen[0] == seen[1]
