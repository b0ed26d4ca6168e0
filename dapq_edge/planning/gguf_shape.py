"""The shape of a model, from the header of its GGUF file."""

import contextlib
from pathlib import Path

import gguf

from ..cells import N_SEQ
from ..errors import ModelError, UnsupportedModelError
from .gguf_header import Header, parts, read_header
from .model_shape import MAX_CELLS, WITH_ALIBI, Layer, ModelShape

# llama.cpp counts layers up to this
MAX_LAYERS = 512

# architectures with sliding windows, in all layers but each n-th one (0: in all) unless their file says which;
# `set_swa_pattern`
WINDOW_PERIODS = {
    "cohere2": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gemma4": 1,
    "gpt-oss": 2,
    "lfm2": 0,
    "llama4": 4,
    "olmo2": 4,
}
DEFAULT_WINDOWS = {"gemma2": 4096, "llama4": 8192}

# the last layers of these use the K and V of earlier ones
SHARING = ("gemma3n", "gemma4")


def read_shape(path: Path) -> ModelShape:
    """The shape of the model in a GGUF file, or in all parts of a split model whose first part `path` is.

    Reads only headers. Raises `ModelError` if a file is missing, broken, or no language model.
    """
    headers = [read_header(part) for part in parts(path)]
    weight_bytes = sum(tensor.n_bytes for header in headers for tensor in header.tensors)
    try:
        return _shape(headers[0], weight_bytes)
    except KeyError as error:
        raise ModelError(f"{path} is no language model: it has no {error.args[0]}") from error
    except (ValueError, IndexError) as error:
        raise ModelError(f"{path} is broken: {error}") from error


def check_eviction(path: Path) -> None:
    """Raise `UnsupportedModelError` if the header of a GGUF file says that the model cannot be evicted."""
    # what is wrong with a file, llama.cpp says
    with contextlib.suppress(ModelError):
        obstacle = read_shape(path).obstacle
        if obstacle:
            raise UnsupportedModelError(f"{path.name} cannot be evicted: {obstacle}: use `policy=full`")


def _shape(header: Header, weight_bytes: int) -> ModelShape:
    field = header.get_field("general.architecture")
    if field is None:
        raise KeyError("general.architecture")
    arch = str(field.contents())
    n_embd, n_ctx_train = header.number(f"{arch}.embedding_length"), header.number(f"{arch}.context_length")
    # a context has no cells of the last layers that only guess further tokens
    n_layer = header.number(f"{arch}.block_count") - header.number(f"{arch}.nextn_predict_layers", 0)
    if not 0 < n_layer <= MAX_LAYERS or not 0 < n_ctx_train <= MAX_CELLS or not weight_bytes:
        raise ValueError(f"{weight_bytes} bytes, {n_layer} layers, trained for {n_ctx_train} tokens")
    none = n_layer * [0]
    layers = _layers(header, arch, n_layer, n_embd)
    n_head = max(header.per_layer(f"{arch}.attention.head_count", none))
    n_ff = header.per_layer(f"{arch}.feed_forward_length", none)
    n_ff_used = max(header.per_layer(f"{arch}.expert_feed_forward_length", n_ff)) * max(
        header.per_layer(f"{arch}.expert_used_count", none)
    )
    return ModelShape(
        architecture=arch,
        n_ctx_train=n_ctx_train,
        weight_bytes=weight_bytes,
        layers=layers,
        state_bytes=n_layer * _state_bytes(header, arch, n_embd),
        n_head=n_head,
        n_activation=n_embd + max(*n_ff, n_ff_used) + n_head * max(layer.key_length for layer in layers),
        n_words=header.n_strings("tokenizer.ggml.tokens") + header.n_strings("tokenizer.ggml.merges"),
        n_vocab=header.n_strings("tokenizer.ggml.tokens"),
        has_alibi=arch in WITH_ALIBI or header.is_positive(f"{arch}.attention.max_alibi_bias"),
        has_index=header.is_positive(f"{arch}.attention.indexer.top_k"),
    )


def _layers(header: Header, arch: str, n_layer: int, n_embd: int) -> tuple[Layer, ...]:
    """Return them as `llama_model_base::load_hparams` and `load_arch_hparams` of the architectures above do."""
    prefix = f"{arch}.attention"
    n_head = header.per_layer(f"{prefix}.head_count", n_layer * [0])
    n_head_kv = header.per_layer(f"{prefix}.head_count_kv", n_head)
    default = n_embd // max(*n_head, 1)
    length_k, length_v = (header.number(f"{prefix}.{name}_length", default) for name in ("key", "value"))
    window_k = header.number(f"{prefix}.key_length_swa", length_k)
    window_v = header.number(f"{prefix}.value_length_swa", length_v)
    if header.get_field(f"{prefix}.key_length_mla"):
        # of latent attention, where V is a part of K
        length_v = window_v = 0
    has_cells, windows = _has_cells(header, arch, n_layer), _windows(header, arch, n_layer)
    return tuple(
        Layer(n_head_kv[il] * has_cells[il], window_k, window_v, windows[il])
        if windows[il]
        else Layer(n_head_kv[il] * has_cells[il], length_k, length_v)
        for il in range(n_layer)
    )


def _windows(header: Header, arch: str, n_layer: int) -> list[int]:
    """Return for each layer the tokens of its sliding window, or 0."""
    window = header.number(f"{arch}.attention.sliding_window", DEFAULT_WINDOWS.get(arch, 0))
    if arch not in WINDOW_PERIODS or not window:
        return n_layer * [0]
    key = f"{arch}.attention.sliding_window_pattern"
    field = header.get_field(key)
    if field and field.types[0] == gguf.GGUFValueType.ARRAY:
        return [window if has_window else 0 for has_window in header.per_layer(key, n_layer * [0])]
    period = header.number(key, WINDOW_PERIODS[arch])
    return [window if not period or il % period < period - 1 else 0 for il in range(n_layer)]


def _has_cells(header: Header, arch: str, n_layer: int) -> list[bool]:
    """Return for each layer whether it is neither recurrent nor uses the cells of others."""
    interval = max(1, header.number(f"{arch}.full_attention_interval", 1))
    recurrent = [int((il + 1) % interval != 0) for il in range(n_layer)]
    recurrent = header.per_layer(f"{arch}.attention.recurrent_layers", recurrent)
    n_shared = header.number(f"{arch}.attention.shared_kv_layers", 0) if arch in SHARING else 0
    return [not recurrent[il] and il < n_layer - n_shared for il in range(n_layer)]


def _state_bytes(header: Header, arch: str, n_embd: int) -> int:
    """Bytes of the state of one recurrent layer in F32: of Mamba and of gated delta nets, or of RWKV."""
    n_inner, n_state = header.number(f"{arch}.ssm.inner_size", 0), header.number(f"{arch}.ssm.state_size", 0)
    n_group, n_conv = header.number(f"{arch}.ssm.group_count", 0), header.number(f"{arch}.ssm.conv_kernel", 1)
    n_mamba = n_state * n_inner + max(0, n_conv - 1) * (n_inner + 2 * n_group * n_state)
    n_wkv = header.number(f"{arch}.wkv.head_size", 0)
    n_rwkv = n_embd * (n_wkv + header.number(f"{arch}.token_shift_count", 2)) if n_wkv else 0
    return 4 * N_SEQ * max(n_mamba, n_rwkv)
