"""Attention in numpy, from the Q and K of a model's own graph, whatever its family."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from .context import Context
from .families import Family
from .tiny import alibi_slopes, softmax

GGML_TYPES = {0: np.float32, 1: np.float16}


class Tensor(ctypes.Structure):
    """`struct ggml_tensor`."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy, float32, its dimensions from the slowest one."""
    kind = np.dtype(GGML_TYPES[tensor.type])
    shape, strides = tensor.ne[::-1], tensor.nb[::-1]
    n_bytes = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + kind.itemsize
    memory = (ctypes.c_char * n_bytes).from_address(tensor.data)
    return np.ndarray(shape, kind, memory, strides=strides).astype(np.float32)


@dataclass
class Captured:
    """q: [query heads, tokens, n]; k: [KV heads, cells, n]."""

    q: np.ndarray
    k: np.ndarray


class Capture:
    """Keeps what is multiplied for the attention in each layer of a context without flash attention."""

    def __init__(self) -> None:
        self.layers: dict[int, Captured] = {}

    def __call__(self, pointer: int, ask: bool, _: int | None) -> bool:
        tensor = Tensor.from_address(pointer)
        name, _, layer = tensor.name.decode().rpartition("-")
        if name == "kq" and not ask:
            k, q = (to_numpy(tensor.src[i].contents)[0] for i in range(2))
            self.layers[int(layer)] = Captured(q, k)
        return name == "kq" if ask else True


def attention(path: Path, family: Family, prompt: list[int], queries: list[int]) -> dict[int, np.ndarray]:
    """What `queries` pay to `prompt` when they are decoded after it: {full layer: [query heads, queries, cells]}."""
    capture = Capture()
    with Context(path, flash_attn=False, on_tensor=capture) as c:
        assert c.decode(prompt, 0) == 0
        assert c.decode(queries, len(prompt)) == 0
    weights = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    rows = {}
    for il in family.full_layers:
        layer = capture.layers[il]
        sinks = weights.get(f"blk.{il}.attn_sinks.weight")
        rows[il] = _weights(layer, family, len(prompt), sinks)[:, :, : len(prompt)]
    return rows


def _weights(layer: Captured, family: Family, n_prompt: int, sinks: np.ndarray | None) -> np.ndarray:
    n_head, n_queries, _ = layer.q.shape
    k = np.repeat(layer.k[:, : n_prompt + n_queries], n_head // layer.k.shape[0], axis=0)
    logits = family.scale * np.einsum("hqn,hkn->hqk", layer.q.astype(np.float64), k.astype(np.float64))
    if family.soft_cap:
        logits = family.soft_cap * np.tanh(logits / family.soft_cap)
    distance = np.arange(n_prompt, n_prompt + n_queries)[:, None] - np.arange(n_prompt + n_queries)
    if family.has_alibi:
        logits -= alibi_slopes(n_head)[:, None, None] * np.abs(distance)
    logits = np.where(distance < 0, -np.inf, logits)
    if sinks is not None:
        # they draw attention, and nothing reads what they give
        logits = np.concatenate([logits, np.broadcast_to(sinks[:, None, None], (n_head, n_queries, 1))], axis=-1)
    return softmax(logits)
