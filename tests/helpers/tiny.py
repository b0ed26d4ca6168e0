"""Tiny random GGUF models and an independent transformer in numpy to compare llama.cpp with."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import gguf
import numpy as np
from scipy.linalg import hadamard

N_VOCAB = 320
N_EMBD = 64
N_FF = 96
EPS = 1e-5
SOFT_CAP = 5.0


@dataclass(frozen=True)
class Spec:
    """Shape of a tiny model.

    arch: llama (RoPE), refact (ALiBi) or gemma2 (soft cap, a window in every other layer). controls: further control
    tokens.
    """

    arch: str = "llama"
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 64
    n_layer: int = 3
    window: int = 8
    n_ctx: int = 512
    template: str = ""
    controls: tuple[str, ...] = ()

    @property
    def full_layers(self) -> list[int]:
        return [il for il in range(self.n_layer) if not self.has_window(il)]

    def has_window(self, il: int) -> bool:
        return self.arch == "gemma2" and il % 2 == 0

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(7)

        def matrix(n_out: int, n_in: int, gain: float = 1.0) -> np.ndarray:
            return (gain * rng.standard_normal((n_out, n_in)) / np.sqrt(n_in)).astype(np.float32)

        def norm() -> np.ndarray:
            return (1 + 0.1 * rng.standard_normal(N_EMBD)).astype(np.float32)

        n_q, n_kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        weights = {"token_embd": matrix(N_VOCAB, N_EMBD, 4.0), "output_norm": norm()}
        for il in range(self.n_layer):
            weights |= {
                f"blk.{il}.attn_norm": norm(),
                f"blk.{il}.attn_q": matrix(n_q, N_EMBD, 1.5),
                f"blk.{il}.attn_k": matrix(n_kv, N_EMBD, 1.5),
                f"blk.{il}.attn_v": matrix(n_kv, N_EMBD),
                f"blk.{il}.attn_output": matrix(N_EMBD, n_q),
                f"blk.{il}.ffn_norm": norm(),
                f"blk.{il}.ffn_gate": matrix(N_FF, N_EMBD),
                f"blk.{il}.ffn_up": matrix(N_FF, N_EMBD),
                f"blk.{il}.ffn_down": matrix(N_EMBD, N_FF),
            }
            if self.arch == "gemma2":
                weights |= {f"blk.{il}.post_attention_norm": norm(), f"blk.{il}.post_ffw_norm": norm()}
        return weights


def write_gguf(spec: Spec, path: Path) -> Path:
    writer = gguf.GGUFWriter(path, spec.arch)
    writer.add_context_length(spec.n_ctx)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(spec.n_layer)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(spec.n_head)
    writer.add_head_count_kv(spec.n_head_kv)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(EPS)
    if spec.template:
        writer.add_chat_template(spec.template)
    if spec.arch == "llama":
        writer.add_rope_dimension_count(spec.head_dim)
    if spec.arch == "gemma2":
        writer.add_attn_logit_softcapping(SOFT_CAP)
        writer.add_final_logit_softcapping(30.0)
        writer.add_sliding_window(spec.window)
    tensors = {f"{name}.weight": data for name, data in spec.weights.items()}
    return finish(writer, path, tensors, has_space=bool(spec.template), controls=spec.controls)


def write_recurrent_gguf(path: Path) -> Path:
    """A Mamba model of one layer: its memory has no cells."""
    n_inner, n_state, n_conv, n_rank = 2 * N_EMBD, 8, 4, 4
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(1)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_ssm_conv_kernel(n_conv)
    writer.add_ssm_inner_size(n_inner)
    writer.add_ssm_state_size(n_state)
    writer.add_ssm_time_step_rank(n_rank)
    shapes = {
        "token_embd.weight": (N_VOCAB, N_EMBD),
        "output_norm.weight": (N_EMBD,),
        "blk.0.attn_norm.weight": (N_EMBD,),
        "blk.0.ssm_in.weight": (2 * n_inner, N_EMBD),
        "blk.0.ssm_conv1d.weight": (n_inner, n_conv),
        "blk.0.ssm_conv1d.bias": (n_inner,),
        "blk.0.ssm_x.weight": (n_rank + 2 * n_state, n_inner),
        "blk.0.ssm_dt.weight": (n_inner, n_rank),
        "blk.0.ssm_dt.bias": (n_inner,),
        "blk.0.ssm_a": (n_inner, n_state),
        "blk.0.ssm_d": (n_inner,),
        "blk.0.ssm_out.weight": (N_EMBD, n_inner),
    }
    rng = np.random.default_rng(7)
    tensors = {name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    tensors["blk.0.ssm_a"] = -np.ones(shapes["blk.0.ssm_a"], dtype=np.float32)
    return finish(writer, path, tensors)


def finish(
    writer: gguf.GGUFWriter,
    path: Path,
    tensors: dict[str, np.ndarray],
    *,
    has_space: bool = False,
    controls: tuple[str, ...] = (),
) -> Path:
    """Add a vocabulary of bytes, controls and some words, and the tensors. has_space: the last word is a space."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *controls]
    kinds = [gguf.TokenType.UNKNOWN, *2 * [gguf.TokenType.CONTROL], *256 * [gguf.TokenType.BYTE]]
    kinds += len(controls) * [gguf.TokenType.CONTROL]
    n_words = N_VOCAB - len(tokens)
    writer.add_tokenizer_model("llama")
    words = [f"▁w{i}" for i in range(n_words)]
    writer.add_token_list([*tokens, *words[: n_words - has_space], *["▁"] * has_space])
    writer.add_token_types([*kinds, *n_words * [gguf.TokenType.NORMAL]])
    writer.add_token_scores(N_VOCAB * [0.0])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def store(x: np.ndarray, cache_type: str) -> np.ndarray:
    """What the KV cache gives back for x [..., head_dim]: llama.cpp rotates what it quantizes, if head_dim allows."""
    if cache_type == "f16":
        return x.astype(np.float16).astype(np.float32)
    kind = gguf.GGMLQuantizationType[cache_type.upper()]
    rotate = kind != gguf.GGMLQuantizationType.BF16 and x.shape[-1] % 64 == 0
    rotation = hadamard(64).astype(np.float32) / 8 if rotate else np.eye(32, dtype=np.float32)
    shape = x.shape
    y = x.reshape(-1, rotation.shape[0]) @ rotation
    y = gguf.quants.dequantize(gguf.quants.quantize(y.reshape(-1, shape[-1]), kind), kind)
    return (y.reshape(-1, rotation.shape[0]) @ rotation.T).reshape(shape)


def rope(x: np.ndarray, pos: np.ndarray, neox: bool) -> np.ndarray:
    """x: [tokens, heads, head_dim]"""
    half = x.shape[-1] // 2
    angle = pos[:, None, None] * 10000.0 ** (-np.arange(half) / half)
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = (x[..., :half], x[..., half:]) if neox else (x[..., 0::2], x[..., 1::2])
    pair = (a * cos - b * sin, a * sin + b * cos)
    return np.concatenate(pair, -1) if neox else np.stack(pair, -1).reshape(x.shape)


def rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def alibi_slopes(n_head: int) -> np.ndarray:
    n = 2 ** int(np.log2(n_head))
    return np.array([2 ** (-8 * (h + 1) / n) if h < n else 2 ** (-4 * (2 * (h - n) + 1) / n) for h in range(n_head)])


def forward(
    spec: Spec, tokens: list[int], positions: list[int], type_k: str, type_v: str
) -> tuple[np.ndarray, np.ndarray]:
    """Attention [layer, query head, token, token] and logits [token, vocab] of a causal pass over the tokens."""
    w, pos = spec.weights, np.asarray(positions)
    n = len(tokens)
    x = w["token_embd"][tokens] * (np.sqrt(N_EMBD) if spec.arch == "gemma2" else 1.0)
    attention = []
    distance = pos[:, None] - pos[None, :]
    for il in range(spec.n_layer):
        h = rms_norm(x, w[f"blk.{il}.attn_norm"])
        q, k, v = ((h @ w[f"blk.{il}.attn_{name}"].T).reshape(n, -1, spec.head_dim) for name in ("q", "k", "v"))
        if spec.arch != "refact":
            q, k = (rope(y, pos, neox=spec.arch == "gemma2") for y in (q, k))
        k, v = (
            np.repeat(store(y.astype(np.float32), kind), spec.n_head // spec.n_head_kv, axis=1)
            for y, kind in ((k, type_k), (v, type_v))
        )
        logits = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(spec.head_dim)
        if spec.arch == "gemma2":
            logits = SOFT_CAP * np.tanh(logits / SOFT_CAP)
        if spec.arch == "refact":
            logits = logits - alibi_slopes(spec.n_head)[:, None, None] * np.abs(distance)
        masked = distance < 0
        if spec.has_window(il):
            masked = masked | (distance >= spec.window)
        a = softmax(np.where(masked, -np.inf, logits))
        attention.append(a)
        y = np.einsum("hqk,khd->qhd", a, v).reshape(n, -1) @ w[f"blk.{il}.attn_output"].T
        if spec.arch == "gemma2":
            y = rms_norm(y, w[f"blk.{il}.post_attention_norm"])
        x = x + y
        h = rms_norm(x, w[f"blk.{il}.ffn_norm"])
        gate = h @ w[f"blk.{il}.ffn_gate"].T
        if spec.arch == "gemma2":
            gate = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        y = (gate * (h @ w[f"blk.{il}.ffn_up"].T)) @ w[f"blk.{il}.ffn_down"].T
        if spec.arch == "gemma2":
            y = rms_norm(y, w[f"blk.{il}.post_ffw_norm"])
        x = x + y
    logits = rms_norm(x, w["output_norm"]) @ w["token_embd"].T
    if spec.arch == "gemma2":
        logits = 30 * np.tanh(logits / 30)
    return np.stack(attention), logits
