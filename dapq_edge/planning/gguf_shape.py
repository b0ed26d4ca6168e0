"""The shape of a model: what its memory depends on, from the header of its GGUF file."""

import contextlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from ..cells import CHUNK, N_CTX_PAD, N_SEQ, pad
from ..errors import ModelError, UnsupportedModelError
from .ram import MIB
from .weights import check_gguf

# llama.cpp counts layers and cells up to these
MAX_LAYERS, MAX_CELLS = 512, 2**31 - N_CTX_PAD

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

# architectures whose attention has a bias by distance (ALiBi) without saying so in their files
WITH_ALIBI = ("bloom", "jina-bert-v2", "refact")

# architectures that read with an encoder
WITH_ENCODER = ("t5", "t5encoder")

# architectures that embed a text, or write it in any order, without a cache; `llama_model::create_memory`
WITHOUT_CACHE = (
    *("bert", "eurobert", "gemma-embedding", "jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe"),
    *("dream", "llada", "llada-moe", "rnd1", "wavtokenizer-dec"),
)

# the last layers of these use the K and V of earlier ones
SHARING = ("gemma3n", "gemma4")

# see `ModelShape.compute_bytes`
PROCESS_BYTES = 68 * MIB
BYTES_PER_WORD = 176
BYTES_PER_ACTIVATION = 13
BYTES_PER_SCORE = 850
BYTES_PER_MASKED = 2.4

# the logits of the 48 tokens that are foreseen of an answer
BYTES_PER_FORESEEN = 192

# while values are fitted: the attention of 64 queries in one layer, and V in 16 bits, with what becomes of half of it
BYTES_PER_ATTENTION = 256
BYTES_PER_VALUE = 3


@dataclass(frozen=True)
class Layer:
    """Contents of a layer in a cell: the lengths count numbers of each KV head.

    n_head_kv: 0 if it has no cells, as a recurrent layer. window: tokens that it sees, 0 for all.
    """

    n_head_kv: int
    key_length: int
    value_length: int
    window: int = 0

    def bytes_per_cell(self, type_k: str, type_v: str) -> int:
        return _row_bytes(type_k, self.n_head_kv * self.key_length) + _row_bytes(
            type_v, self.n_head_kv * self.value_length
        )


@dataclass(frozen=True)
class ModelShape:
    """Facts that the memory of a model depends on. Types of K and V are names as in `context.CACHE_TYPES`.

    Layers are as llama.cpp makes them for plain and latent attention, for recurrent layers that the file names, and for
    windows of the architectures in `WINDOW_PERIODS`. Those of other architectures count as full attention, which is
    never too little. The index of sparse attention is not counted.

    weight_bytes: of the tensors of all parts. state_bytes: as if all layers were recurrent, if there are such layers.
    n_head: query heads; n_activation: numbers that a token has in a layer at once; n_words: tokens and merges of the
    vocabulary; n_vocab: its tokens. has_alibi: whether the attention has a bias by distance; has_index: whether it is
    sparse, and an index chooses the cells that a token sees (deepseek32, glm-dsa, minimax-m3).
    """

    architecture: str
    n_ctx_train: int
    weight_bytes: int
    layers: tuple[Layer, ...]
    state_bytes: int
    n_head: int
    n_activation: int
    n_words: int
    n_vocab: int
    has_alibi: bool = False
    has_index: bool = False

    @property
    def obstacle(self) -> str:
        """Reason why the model cannot be evicted, as far as its header says; empty if there is none."""
        if self.architecture in WITH_ENCODER:
            return "it reads with an encoder"
        if self.architecture in WITHOUT_CACHE:
            return "it has no KV cache"
        if self.has_alibi:
            return "its attention needs the position of each cell (ALiBi)"
        if self.has_index:
            return "an index of its own chooses the cells that a token sees (sparse attention)"
        if not any(layer.n_head_kv for layer in self.layers):
            return "it has recurrent states, and no cells"
        if all(layer.window or not layer.n_head_kv for layer in self.layers):
            return "all its layers have sliding windows"
        return ""

    def bytes_per_cell(self, type_k: str, type_v: str) -> int:
        """Bytes of a cell in the full-attention layers."""
        return sum(layer.bytes_per_cell(type_k, type_v) for layer in self.layers if not layer.window)

    def saved_bytes(self, type_k: str, type_v: str, n_layers: int | None = None) -> int:
        """Bytes of a token in a file, with those of sliding windows, in the first `n_layers` layers (None: in all)."""
        return sum(layer.bytes_per_cell(type_k, type_v) for layer in self.layers[:n_layers])

    def window_bytes(self, type_k: str, type_v: str, n_batch: int, n_cells: int = MAX_CELLS) -> int:
        """Bytes of the sliding-window layers of a context: at most, or with `n_cells` cells."""
        return sum(
            layer.bytes_per_cell(type_k, type_v) * pad(min(n_cells, N_SEQ * layer.window + n_batch))
            for layer in self.layers
            if layer.window
        )

    def kv_bytes(self, n_cells: int, type_k: str, type_v: str, n_batch: int) -> int:
        """Bytes that a context of `n_cells` cells, padded, has for K and V and for the states of recurrent layers."""
        n_cells = pad(n_cells)
        windows = self.window_bytes(type_k, type_v, min(n_batch, n_cells), n_cells)
        return n_cells * self.bytes_per_cell(type_k, type_v) + windows + self.state_bytes

    def compute_bytes(self, n_cells: int, n_batch: int) -> int:
        """An estimate of the rest: the process, the vocabulary, activations, the mask, scores of a probe, and values.

        It is what the process touches, without weights and K and V, on a CPU with flash attention; llama.cpp reserves
        more, for logits that are never computed. The constants were fitted to the anonymous memory and the libraries of
        processes that read 700 to 9,500 tokens with smollm2-135m, gemma3-270m and random models, with batches of 64 and
        512 and 768 to 8,704 cells: it is 1.0 to 1.4 times of that, 1.7 where a policy never probes.
        """
        activations = (n_batch + CHUNK) * self.n_activation * BYTES_PER_ACTIVATION
        n_values = sum(layer.n_head_kv * layer.value_length for layer in self.layers if not layer.window)
        fitted = self.n_head * BYTES_PER_ATTENTION + n_values * BYTES_PER_VALUE
        per_cell = self.n_head * BYTES_PER_SCORE + int(n_batch * BYTES_PER_MASKED) + fitted
        words = self.n_words * BYTES_PER_WORD + self.n_vocab * BYTES_PER_FORESEEN
        return PROCESS_BYTES + words + activations + n_cells * per_cell

    def total_bytes(self, n_cells: int, type_k: str, type_v: str, n_batch: int) -> int:
        """Memory of a process that reads with `n_cells` cells."""
        kv_bytes = self.kv_bytes(n_cells, type_k, type_v, n_batch)
        return self.weight_bytes + kv_bytes + self.compute_bytes(pad(n_cells), n_batch)


def read_shape(path: Path) -> ModelShape:
    """The shape of the model in a GGUF file, or in all parts of a split model whose first part `path` is.

    Reads only headers. Raises `ModelError` if a file is missing, broken, or no language model.
    """
    headers = [_read_header(part) for part in _parts(path)]
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


def _parts(path: Path) -> list[Path]:
    match = re.fullmatch(r"(.+)-00001-of-([0-9]{5})\.gguf", path.name)
    if not match or int(match[2]) == 0:
        return [path]
    return [path.with_name(f"{match[1]}-{i:05}-of-{match[2]}.gguf") for i in range(1, int(match[2]) + 1)]


class _Header(gguf.GGUFReader):
    """Makes no object of each number and string in an array: a vocabulary has hundreds of thousands."""

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[npt.NDArray[Any]], list[int], list[gguf.GGUFValueType]]:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)  # type: ignore[no-any-return]
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        start = orig_offs + kind.nbytes + length.nbytes
        types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(int(kind[0]))]
        if types[1] == gguf.GGUFValueType.STRING:
            return self._end_of_strings(start, int(length[0])) - orig_offs, [kind, length], [], types
        values = self._get(start, self.gguf_scalar_to_np[types[1]], int(length[0]))
        return start + values.nbytes - orig_offs, [kind, length, values], [2], types

    def _end_of_strings(self, offset: int, count: int) -> int:
        n_bytes = struct.Struct("<Q")
        for _ in range(count):
            offset += n_bytes.size + n_bytes.unpack_from(self.data, offset)[0]
        return offset

    def number(self, key: str, default: int | None = None) -> int:
        """Raises KeyError if there is none and no default, and ValueError if it is none."""
        field = self.get_field(key)
        if field is None and default is None:
            raise KeyError(key)
        value = default if field is None else field.contents()
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{key} is no natural number")
        return value

    def is_positive(self, key: str) -> bool:
        field = self.get_field(key)
        value = field.contents() if field else 0
        return isinstance(value, int | float) and value > 0

    def per_layer(self, key: str, default: list[int]) -> list[int]:
        """Return as many numbers as `default` has; one number is that of all layers. Raises ValueError."""
        field = self.get_field(key)
        if field is None:
            return default
        if field.types[0] != gguf.GGUFValueType.ARRAY:
            return len(default) * [self.number(key)]
        values = field.contents()
        if len(values) < len(default) or not all(isinstance(value, int) and value >= 0 for value in values):
            raise ValueError(f"{key} does not have a number for each layer")
        return list(values[: len(default)])

    def n_strings(self, key: str) -> int:
        field = self.get_field(key)
        # behind the length of the key, the key, its type, and the type of the array
        return int(field.parts[4][0]) if field else 0


def _read_header(path: Path) -> _Header:
    try:
        # sums of broken numbers wrap around
        with np.errstate(over="ignore"):
            return _Header(check_gguf(path))
    except ModelError:
        raise
    except Exception as error:  # gguf checks nothing, so that anything may be raised
        raise ModelError(f"{path} is broken or truncated") from error


def _shape(header: _Header, weight_bytes: int) -> ModelShape:
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


def _layers(header: _Header, arch: str, n_layer: int, n_embd: int) -> tuple[Layer, ...]:
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


def _windows(header: _Header, arch: str, n_layer: int) -> list[int]:
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


def _has_cells(header: _Header, arch: str, n_layer: int) -> list[bool]:
    """Return for each layer whether it is neither recurrent nor uses the cells of others."""
    interval = max(1, header.number(f"{arch}.full_attention_interval", 1))
    recurrent = [int((il + 1) % interval != 0) for il in range(n_layer)]
    recurrent = header.per_layer(f"{arch}.attention.recurrent_layers", recurrent)
    n_shared = header.number(f"{arch}.attention.shared_kv_layers", 0) if arch in SHARING else 0
    return [not recurrent[il] and il < n_layer - n_shared for il in range(n_layer)]


def _state_bytes(header: _Header, arch: str, n_embd: int) -> int:
    """Bytes of the state of one recurrent layer in F32: of Mamba and of gated delta nets, or of RWKV."""
    n_inner, n_state = header.number(f"{arch}.ssm.inner_size", 0), header.number(f"{arch}.ssm.state_size", 0)
    n_group, n_conv = header.number(f"{arch}.ssm.group_count", 0), header.number(f"{arch}.ssm.conv_kernel", 1)
    n_mamba = n_state * n_inner + max(0, n_conv - 1) * (n_inner + 2 * n_group * n_state)
    n_wkv = header.number(f"{arch}.wkv.head_size", 0)
    n_rwkv = n_embd * (n_wkv + header.number(f"{arch}.token_shift_count", 2)) if n_wkv else 0
    return 4 * N_SEQ * max(n_mamba, n_rwkv)


def _row_bytes(cache_type: str, n_numbers: int) -> int:
    """Bytes of a row of numbers, in whole blocks."""
    n_block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[cache_type.upper()]]
    return int(-(-n_numbers // n_block) * n_bytes)
