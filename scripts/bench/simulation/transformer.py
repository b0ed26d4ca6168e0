"""A llama or Gemma 3 model in numpy, whose KV heads attend to whatever cells they are given."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

# Gemma 3: of so many layers, the last one has no sliding window; the others have this base of the rotation
N_CYCLE, WINDOW_BASE = 6, 10000.0


@dataclass(frozen=True)
class Cells:
    """K and V of the cells of one KV head: float32 [cells, head_dim]. log_weight: for how much each counts: [cells]."""

    k: np.ndarray
    v: np.ndarray
    log_weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.k)


# {layer: the cells of each KV head}
Cache = dict[int, list[Cells]]


@dataclass(frozen=True)
class LayerSeen:
    """What the tokens of a batch did in one layer.

    Attributes:
        queries: Rotated and scaled: float32 [query heads, tokens, head_dim].
        k, v: Of the tokens: float32 [KV heads, tokens, head_dim].
        attention: To the cells before them: one array for each KV head, float32 [query heads of it, tokens, cells].
        outputs: Of the heads: float32 [query heads, tokens, head_dim].
    """

    queries: np.ndarray
    k: np.ndarray
    v: np.ndarray
    attention: list[np.ndarray]
    outputs: np.ndarray


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def as_f16(x: np.ndarray) -> np.ndarray:
    """What a cache of f16 gives back."""
    return x.astype(np.float16).astype(np.float32)


class Transformer:
    """Weights in float32. path: a GGUF file of the architecture llama or gemma3."""

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer")}
        arch = fields["general.architecture"]
        self.is_gemma = arch == "gemma3"
        self.n_layer, self.n_embd = fields[f"{arch}.block_count"], fields[f"{arch}.embedding_length"]
        self.n_head, self.n_head_kv = (fields[f"{arch}.attention.{name}"] for name in ("head_count", "head_count_kv"))
        self.head_dim = fields.get(f"{arch}.attention.key_length", self.n_embd // self.n_head)
        self.eps, self.base = fields[f"{arch}.attention.layer_norm_rms_epsilon"], fields[f"{arch}.rope.freq_base"]
        self.window = fields.get(f"{arch}.attention.sliding_window", 0)
        self.weights = {
            tensor.name.removesuffix(".weight"): np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
            for tensor in reader.tensors
        }

    @property
    def n_group(self) -> int:
        """Query heads of a KV head."""
        return self.n_head // self.n_head_kv

    @property
    def n_vocab(self) -> int:
        return len(self.weights["token_embd"])

    @property
    def full_layers(self) -> list[int]:
        return [il for il in range(self.n_layer) if not self.has_window(il)]

    def has_window(self, il: int) -> bool:
        return self.is_gemma and (il + 1) % N_CYCLE != 0

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Logits of what comes out of the last layer: float32 [..., n_vocab]."""
        return self._norm(x, "output_norm") @ self.weights["token_embd"].T

    def layers(self, tokens: np.ndarray, pos: int, caches: Sequence[Cache]) -> Iterator[tuple[LayerSeen, np.ndarray]]:
        """Evaluate tokens at `pos` and after it, behind each of the caches, layer by layer.

        Gives what they do behind the first of the caches, and what comes out: float32 [caches, tokens, n_embd].
        """
        w, positions = self.weights, np.arange(pos, pos + len(tokens))
        x = w["token_embd"][tokens] * np.float32(np.sqrt(self.n_embd) if self.is_gemma else 1)
        x = np.tile(x, (len(caches), 1, 1))
        for il in range(self.n_layer):
            blk = f"blk.{il}"
            h = self._norm(x, f"{blk}.attn_norm")
            q, k, v = ((h @ w[f"{blk}.attn_{name}"].T).reshape(*h.shape[:2], -1, self.head_dim) for name in "qkv")
            if self.is_gemma:
                q, k = self._norm(q, f"{blk}.attn_q_norm"), self._norm(k, f"{blk}.attn_k_norm")
            q, k = (self._rotate(y, positions, il).swapaxes(1, 2) for y in (q, k))
            q, k, v = q / np.float32(np.sqrt(self.head_dim)), as_f16(k), as_f16(v).swapaxes(1, 2)
            pairs = [self._attend(q[i], k[i], v[i], il, pos, cache) for i, cache in enumerate(caches)]
            outputs = np.stack([outputs for outputs, _ in pairs])
            y = outputs.swapaxes(1, 2).reshape(*h.shape[:2], -1) @ w[f"{blk}.attn_output"].T
            x = x + (self._norm(y, f"{blk}.post_attention_norm") if self.is_gemma else y)
            x = x + self._feed_forward(self._norm(x, f"{blk}.ffn_norm"), blk)
            yield LayerSeen(q[0], k[0], v[0], pairs[0][1], outputs[0]), x

    def _attend(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, il: int, pos: int, cache: Cache
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Outputs [query heads, tokens, head_dim], and the attention of each KV head's query heads to its cells."""
        n_tokens, outputs, attention = q.shape[1], [], []
        for i, own_k in enumerate(k):
            cells = cache[il][i] if il in cache else Cells(own_k[:0], v[i][:0])
            queries = q[i * self.n_group : (i + 1) * self.n_group]
            logits = queries @ np.concatenate([cells.k, own_k]).T
            if cells.log_weight is not None:
                logits[..., : len(cells)] += cells.log_weight
            at = np.arange(-len(cells), n_tokens)
            distance = np.arange(n_tokens)[:, None] - at
            is_hidden = (distance < 0) | (distance >= self.window if self.has_window(il) else False)
            weights = softmax(np.where(is_hidden, np.float32(-np.inf), logits))
            outputs.append(weights @ np.concatenate([cells.v, v[i]]))
            attention.append(weights[..., : len(cells)])
        return np.concatenate(outputs), attention

    def _feed_forward(self, h: np.ndarray, blk: str) -> np.ndarray:
        gate, up = (h @ self.weights[f"{blk}.ffn_{name}"].T for name in ("gate", "up"))
        if self.is_gemma:
            gate = 0.5 * gate * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        y = (gate * up) @ self.weights[f"{blk}.ffn_down"].T
        return self._norm(y, f"{blk}.post_ffw_norm") if self.is_gemma else y

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self.weights[name]

    def _rotate(self, x: np.ndarray, positions: np.ndarray, il: int) -> np.ndarray:
        """x: [caches, tokens, heads, head_dim]"""
        half = self.head_dim // 2
        angle = positions[:, None, None] * (WINDOW_BASE if self.has_window(il) else self.base) ** (
            -np.arange(half) / half
        )
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        a, b = (x[..., :half], x[..., half:]) if self.is_gemma else (x[..., 0::2], x[..., 1::2])
        pair = (a * cos - b * sin, a * sin + b * cos)
        return np.concatenate(pair, axis=-1) if self.is_gemma else np.stack(pair, axis=-1).reshape(x.shape)
