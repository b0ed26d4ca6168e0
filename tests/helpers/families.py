"""A tiny random GGUF model of each family of language models, whose tensors are those that llama.cpp asks for."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

from dapq_edge.llamacpp.log import captured_log

from .tiny import N_EMBD, finish

N_HEAD, N_HEAD_KV, HEAD_DIM = 4, 2, 16

MOE = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 48}
WINDOW = {"attention.sliding_window": 8}


@dataclass(frozen=True)
class Family:
    """One row of the support table.

    keys: of the GGUF file, after the name of the architecture, beside `DEFAULTS`.
    tensors: optional ones that the model needs.
    full_layers: that see all cells. scale: of the product of Q and K, where Q is not scaled already. soft_cap: of the
    logits of the attention.
    """

    arch: str
    keys: dict[str, Any] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()
    n_layer: int = 3
    n_head_kv: int = N_HEAD_KV
    full_layers: tuple[int, ...] = (0, 1, 2)
    scale: float = HEAD_DIM**-0.5
    soft_cap: float = 0.0
    has_alibi: bool = False


FAMILIES = {
    "llama": Family("llama"),
    "mistral": Family("mistral3"),
    "mistral, window": Family("llama", WINDOW),
    "qwen2": Family("qwen2"),
    "qwen2vl, text": Family("qwen2vl", {"rope.dimension_sections": [2, 3, 3, 0]}),
    "qwen3": Family("qwen3"),
    "qwen3moe": Family("qwen3moe", MOE),
    "gemma2": Family(
        "gemma2", WINDOW | {"attn_logit_softcapping": 5.0}, n_layer=4, full_layers=(1, 3), scale=1.0, soft_cap=5.0
    ),
    "gemma3": Family("gemma3", WINDOW, n_layer=6, full_layers=(5,), scale=1.0),
    "phi3": Family("phi3", tensors=tuple(f"blk.{il}.attn_qkv.weight" for il in range(3)), scale=1.0),
    "olmo2": Family("olmo2"),
    "granite": Family("granite", {"logit_scale": 2.0, "attention.scale": 0.1}, scale=0.1),
    "starcoder2": Family("starcoder2"),
    "falcon": Family("falcon", n_head_kv=1),
    "bloom": Family("bloom", n_head_kv=N_HEAD, has_alibi=True),
    "mpt": Family("mpt", {"attention.max_alibi_bias": 8.0}, n_head_kv=N_HEAD, has_alibi=True),
    "gpt-oss": Family("gpt-oss", {**MOE, **WINDOW}, n_layer=4, full_layers=(1, 3)),
    "deepseek2": Family(
        "deepseek2",
        MOE
        | {"expert_shared_count": 1, "leading_dense_block_count": 1, "attention.q_lora_rank": 24}
        | {"attention.kv_lora_rank": 32, "attention.key_length": 48, "attention.value_length": 32}
        | {"attention.key_length_mla": 40, "attention.value_length_mla": 24, "rope.dimension_count": 16},
        n_head_kv=1,
        scale=40**-0.5,
    ),
    "lfm2": Family("lfm2", {"shortconv.l_cache": 3, "attention.head_count_kv": [0, N_HEAD_KV, 0]}, full_layers=(1,)),
    "lfm2, window": Family(
        "lfm2", WINDOW | {"shortconv.l_cache": 3, "attention.head_count_kv": [0, N_HEAD_KV, 0]}, full_layers=()
    ),
    "mamba2": Family(
        "mamba2",
        {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.time_step_rank": 8}
        | {"ssm.group_count": 1, "attention.head_count": 0, "attention.head_count_kv": 0, "feed_forward_length": 0},
        full_layers=(),
    ),
    "qwen3next": Family(
        "qwen3next",
        MOE
        | {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 32, "ssm.time_step_rank": 4}
        | {"ssm.group_count": 2, "full_attention_interval": 2, "expert_shared_feed_forward_length": 48},
        tuple(f"blk.{il}.attn_{name}.weight" for il in (0, 2) for name in ("qkv", "gate")),
        n_layer=4,
        full_layers=(1, 3),
    ),
    "qwen35, text": Family(
        "qwen35",
        {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 32, "ssm.time_step_rank": 4}
        | {"ssm.group_count": 2, "full_attention_interval": 2, "rope.dimension_sections": [2, 3, 3, 0]},
        tuple(f"blk.{il}.attn_{name}.weight" for il in (0, 2) for name in ("qkv", "gate")),
        n_layer=4,
        full_layers=(1, 3),
    ),
}  # fmt: skip

# that cannot be evicted, and why
REFUSED = {"bloom": "ALiBi", "mpt": "ALiBi", "lfm2, window": "sliding windows", "mamba2": "recurrent"}

DEFAULTS: dict[str, Callable[[Family], Any]] = {
    "context_length": lambda _: 4096,
    "embedding_length": lambda _: N_EMBD,
    "block_count": lambda family: family.n_layer,
    "feed_forward_length": lambda _: 96,
    "attention.head_count": lambda _: N_HEAD,
    "attention.head_count_kv": lambda family: family.n_head_kv,
    "attention.key_length": lambda _: HEAD_DIM,
    "attention.value_length": lambda _: HEAD_DIM,
    "attention.layer_norm_rms_epsilon": lambda _: 1e-5,
    "attention.layer_norm_epsilon": lambda _: 1e-5,
    "rope.dimension_count": lambda _: HEAD_DIM,
}


def write_family(name: str, path: Path) -> Path:
    """Ask llama.cpp for one tensor after the other."""
    family = FAMILIES[name]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(family.tensors, (1,))
    for _ in range(40 * family.n_layer):
        _write(family, path, shapes)
        message = _load(path)
        if not message:
            return path
        if missing := re.search(r"missing tensor '([^']+)'|tensor '([^']+)' not found", message):
            shapes[missing[1] or missing[2]] = (1,)
        elif wrong := re.search(r"tensor '([^']+)' has wrong shape; expected +([0-9, ]+?), got", message):
            # llama.cpp counts from the fastest dimension
            shapes[wrong[1]] = tuple(int(n) for n in reversed(wrong[2].split(",")))
            while len(shapes[wrong[1]]) > 1 and shapes[wrong[1]][0] == 1:
                shapes[wrong[1]] = shapes[wrong[1]][1:]
        else:
            raise RuntimeError(f"{name}: {message}")
    raise RuntimeError(f"{name}: llama.cpp asks for more and more tensors")


def _load(path: Path) -> str:
    """Why llama.cpp does not load the model, or nothing."""
    with captured_log() as log:
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    if not model:
        return "\n".join(log)
    llama_cpp.llama_model_free(model)
    return ""


def _write(family: Family, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    writer = gguf.GGUFWriter(path, family.arch)
    keys = {key: value(family) for key, value in DEFAULTS.items()} | family.keys
    for key, value in keys.items():
        add = {int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}[type(value)]
        add(f"{family.arch}.{key}", value)
    rng = np.random.default_rng(7)
    finish(writer, path, {tensor: _values(rng, tensor, shape) for tensor, shape in shapes.items()})


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.standard_normal(shape)
    if "norm" in name and name.endswith("weight"):
        values = 1 + 0.1 * values
    elif "ssm_a" in name:
        values = -np.exp(0.1 * values)
    elif len(shape) > 1:
        gain = 4.0 if "token_embd" in name else 1.5 if "attn" in name else 1.0
        values *= gain / np.sqrt(shape[-1])
    else:
        values *= 0.1
    return values.astype(np.float32)
