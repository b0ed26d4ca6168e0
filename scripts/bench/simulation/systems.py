"""Related systems: each chooses, and may change, the cells of a prompt that was read."""

from collections.abc import Callable

import numpy as np

from dapq_edge.eviction.score import group_heads

from . import changes, numbers
from .subject import N_AHEAD, N_FILLER, Scores, Subject, top
from .transformer import Cache

# what is kept of a prompt, given how many cells each head keeps on average
System = Callable[[Subject, int], Cache]


def look_ahead(n_ahead: int, n_filler: int) -> System:
    def system(subject: Subject, n_keep: int) -> Cache:
        seen = subject.probe(n_ahead, n_filler)
        return subject.cache(top(subject.scores([np.concatenate(layer.attention) for layer in seen]), n_keep))

    return system


def with_numbers(numbers_of: Callable[[Subject, int], list]) -> System:
    return lambda subject, n_keep: subject.cache(top(subject.fused, numbers_of(subject, n_keep)))


def merging(**options: bool) -> System:
    return lambda subject, n_keep: changes.merged(subject, top(subject.fused, n_keep), **options)


def quantized(type_k: str, type_v: str) -> System:
    return lambda subject, n_keep: changes.quantized(subject, n_keep, type_k, type_v)


def votes(subject: Subject) -> Scores:
    """CORM (arXiv 2404.15949, section 4): how many queries look at a cell more than at the average one."""
    return [
        group_heads((layer > 1 / subject.n).mean(axis=1) + 1e-3 * layer.mean(axis=1), subject.reading.model.n_head_kv)
        for layer in subject.attention
    ]


def pod(subject: Subject, n_keep: int) -> Cache:
    """PoD (arXiv 2412.02252, section 3): two layers share their choice."""
    pairs = [subject.fused[i : i + 2] for i in range(0, len(subject.fused), 2)]
    shared = [np.mean(pair, axis=0) for pair in pairs for _ in pair]
    return subject.cache(top(shared, n_keep))


def refitted(numbers_of: Callable[[Subject, int], list]) -> System:
    return lambda subject, n_keep: changes.refitted(subject, top(subject.fused, numbers_of(subject, n_keep)))


SYSTEMS: dict[str, System] = {
    "fused, all layers alike": look_ahead(N_AHEAD, N_FILLER),
    **{f"look-ahead {n} + filler {N_FILLER}": look_ahead(n, N_FILLER) for n in (8, 16, 24, 48)},
    "look-ahead 32, filler 128": look_ahead(N_AHEAD, 128),
    "CAKE's layers": with_numbers(numbers.cake),
    "layers by retrieval": with_numbers(numbers.by_retrieval),
    "layers by sensitivity": with_numbers(numbers.by_sensitivity),
    "RazorAttention's whole heads": with_numbers(numbers.razor),
    "RazorAttention": lambda s, n: changes.compensated(s, top(s.fused, numbers.razor(s, n - 1)), True),
    "FastGen's rule": with_numbers(numbers.fastgen),
    "Ada-KV": with_numbers(numbers.ada),
    "Ada-KV over all layers": with_numbers(numbers.all_heads),
    "CORM's votes": lambda s, n: s.cache(top(votes(s), n)),
    "PoD, two layers": pod,
    "compensation cell": lambda s, n: changes.compensated(s, top(s.fused, n - 1), True),
    "compensation cell without a weight": lambda s, n: changes.compensated(s, top(s.fused, n - 1), False),
    "SubGen, half clusters": lambda s, n: changes.clustered(s, n, 0.5),
    "Elastic Cache": merging(by_key=False, with_k=True, by_attention=False),
    "Elastic Cache, V only, by attention": merging(by_key=False, with_k=False, by_attention=True),
    "EMS": merging(by_key=True, with_k=True, by_attention=False),
    "EMS, V only, by attention": merging(by_key=True, with_k=False, by_attention=True),
    "EMS, V only, and weights of cells": merging(by_key=True, with_k=False, by_attention=True, is_weighted=True),
    "refitted values": refitted(numbers.alike),
    "refitted values, layers by retrieval": refitted(numbers.by_retrieval),
    "refitted values, layers by sensitivity": refitted(numbers.by_sensitivity),
    "ThinK, 60% of K's channels": lambda s, n: changes.with_channels(s, n, 0.6),
    "K q4_0": quantized("q4_0", "f16"),
    "K and V q8_0": quantized("q8_0", "q8_0"),
    "K and V q4_0": quantized("q4_0", "q4_0"),
}

BASE = next(iter(SYSTEMS))
