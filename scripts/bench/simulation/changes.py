"""Systems that change cells: merged, compensated, fitted, with less channels or bits."""

from collections.abc import Iterator

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from scipy.linalg import hadamard

from dapq_edge.cells import N_RECENT, N_SINK

from .subject import Keep, Rows, Subject, top
from .transformer import Cache

# llama.cpp rotates what it quantizes
N_ROTATED = 64


def heads_of(keep: Keep) -> Iterator[tuple[int, int, np.ndarray]]:
    """Each layer, KV head, and its cells."""
    for i, layer in enumerate(keep):
        for j, cells in enumerate(layer):
            yield i, j, cells


def rows_like(keep: Keep) -> Rows:
    return [[np.empty(0)] * len(layer) for layer in keep]


def lost(subject: Subject, cells: np.ndarray) -> np.ndarray:
    return np.setdiff1d(np.arange(subject.n), cells)


def merged(
    subject: Subject, keep: Keep, *, by_key: bool, with_k: bool, by_attention: bool, is_weighted: bool = False
) -> Cache:
    """Lost cells go into the nearest kept cell: by position (Elastic Cache, 2407.18121), or by key (EMS, 2412.08521).

    by_attention: cells count as much as they are attended to, instead of alike. is_weighted: a merged cell counts as
    much in the attention as all that is in it, which llama.cpp cannot.
    """
    new_k, new_v, logs = rows_like(keep), rows_like(keep), rows_like(keep)
    for i, j, cells in heads_of(keep):
        k, v, gone, to = subject.k[i][j], subject.v[i][j], lost(subject, cells), cells[N_SINK : len(cells) - N_RECENT]
        if by_key:
            unit = k / np.linalg.norm(k, axis=1, keepdims=True)
            near = (unit[gone] @ unit[to].T).argmax(axis=1)
        else:
            near = np.abs(gone[:, None] - to).argmin(axis=1)
        weights = subject.seen[i].attention[j].mean(axis=(0, 1)) if by_attention else np.ones(subject.n, np.float32)
        total, sum_k, sum_v = weights[to].copy(), k[to] * weights[to, None], v[to] * weights[to, None]
        np.add.at(total, near, weights[gone])
        np.add.at(sum_k, near, k[gone] * weights[gone, None])
        np.add.at(sum_v, near, v[gone] * weights[gone, None])
        is_merged = slice(N_SINK, len(cells) - N_RECENT)
        new_k[i][j], new_v[i][j], logs[i][j] = k[cells].copy(), v[cells].copy(), np.zeros(len(cells), np.float32)
        new_v[i][j][is_merged] = sum_v / total[:, None]
        if with_k:
            new_k[i][j][is_merged] = sum_k / total[:, None]
        logs[i][j][is_merged] = np.log(total / weights[to])
    return subject.cache(keep, new_k, new_v, logs if is_weighted else None)


def compensated(subject: Subject, keep: Keep, is_weighted: bool) -> Cache:
    """One more cell: the mean of what is lost (RazorAttention, 2407.15891); is_weighted: it counts for all of that."""
    new_k, new_v, logs = rows_like(keep), rows_like(keep), rows_like(keep)
    for i, j, cells in heads_of(keep):
        gone = lost(subject, cells)
        k, v = subject.k[i][j], subject.v[i][j]
        # a head that keeps everything has nothing to add
        more = [gone] if gone.size else []
        new_k[i][j] = np.concatenate([k[cells], *(k[part].mean(axis=0, keepdims=True) for part in more)])
        new_v[i][j] = np.concatenate([v[cells], *(v[part].mean(axis=0, keepdims=True) for part in more)])
        sizes = [*[1] * len(cells), *(part.size if is_weighted else 1 for part in more)]
        logs[i][j] = np.log(np.array(sizes, np.float32))
    return subject.cache(keep, new_k, new_v, logs)


def clustered(subject: Subject, n_keep: int, share: float) -> Cache:
    """Some cells stand for clusters of the lost keys, with their sizes as weights (SubGen, 2402.06082)."""
    n_clusters = int(share * (n_keep - N_SINK - N_RECENT))
    keep, rng = top(subject.fused, n_keep - n_clusters), np.random.default_rng(0)
    new_k, new_v, logs = rows_like(keep), rows_like(keep), rows_like(keep)
    for i, j, cells in heads_of(keep):
        gone = lost(subject, cells)
        k, v = subject.k[i][j][gone], subject.v[i][j][gone]
        centers = k[rng.choice(len(gone), n_clusters, replace=False)]
        for _ in range(5):
            near = ((centers**2).sum(axis=1) - 2 * k @ centers.T).argmin(axis=1)
            is_of = (near == np.arange(n_clusters)[:, None]).astype(np.float32)
            sizes = is_of.sum(axis=1, keepdims=True)
            centers = np.where(sizes > 0, is_of @ k / np.maximum(sizes, 1), centers)
        has = sizes[:, 0] > 0
        new_k[i][j] = np.concatenate([subject.k[i][j][cells], centers[has]])
        new_v[i][j] = np.concatenate([subject.v[i][j][cells], (is_of @ v)[has] / sizes[has]])
        logs[i][j] = np.concatenate([np.zeros(len(cells), np.float32), np.log(sizes[has, 0])])
    return subject.cache(keep, new_k, new_v, logs)


def refitted(subject: Subject, keep: Keep, ridge: float = 0.1) -> Cache:
    """The values of the kept cells become those with which the queries get what the full cache gives them.

    Only from what the patch reports, the attention to the cells, and V: ridge regression towards the values that are.
    """
    new_v = rows_like(keep)
    for i, j, cells in heads_of(keep):
        attention, v = subject.seen[i].attention[j].reshape(-1, subject.n), subject.v[i][j]
        amount = attention.sum(axis=1, keepdims=True)
        kept = attention[:, cells] / attention[:, cells].sum(axis=1, keepdims=True) * amount
        products = kept @ kept.T
        products[np.diag_indices_from(products)] += ridge * np.trace(products) / len(products)
        new_v[i][j] = v[cells] + kept.T @ np.linalg.solve(products, attention @ v - kept @ v[cells])
    return subject.cache(keep, v=new_v)


def with_channels(subject: Subject, n_keep: int, share: float) -> Cache:
    """Only the channels of K in which queries and keys are long (ThinK, 2407.21018), and more cells instead."""
    keep = top(subject.fused, int(n_keep * 2 / (1 + share)))
    new_k = rows_like(keep)
    for i, j, cells in heads_of(keep):
        k = subject.k[i][j, cells].copy()
        queries = subject.seen[i].queries[j * subject.n_group : (j + 1) * subject.n_group]
        length = np.linalg.norm(queries, axis=(0, 1)) * np.linalg.norm(k, axis=0)
        k[:, np.argsort(length)[: round((1 - share) * len(length))]] = 0
        new_k[i][j] = k
    return subject.cache(keep, k=new_k)


def quantized(subject: Subject, n_keep: int, type_k: str, type_v: str) -> Cache:
    """K and V of other types than f16, and more cells of the same bytes."""
    keep = top(subject.fused, int(n_keep * 4 / (_n_bytes(type_k) + _n_bytes(type_v))))
    new_k, new_v = rows_like(keep), rows_like(keep)
    for i, j, cells in heads_of(keep):
        new_k[i][j] = _stored(subject.k[i][j, cells], type_k)
        new_v[i][j] = _stored(subject.v[i][j, cells], type_v)
    return subject.cache(keep, new_k, new_v)


def _n_bytes(name: str) -> float:
    """Bytes of a number."""
    n_block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]
    return n_bytes / n_block


def _stored(x: np.ndarray, name: str) -> np.ndarray:
    kind, rotation = GGMLQuantizationType[name.upper()], hadamard(N_ROTATED).astype(np.float32) / np.sqrt(N_ROTATED)
    if kind == GGMLQuantizationType.F16:
        return x
    rotated = (x.reshape(-1, N_ROTATED) @ rotation).reshape(x.shape)
    return (dequantize(quantize(rotated, kind), kind).reshape(-1, N_ROTATED) @ rotation.T).reshape(x.shape)
