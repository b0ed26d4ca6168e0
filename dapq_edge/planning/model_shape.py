"""The shape of a model: what its memory depends on."""

from dataclasses import dataclass

import gguf

from ..cells import CHUNK, N_CTX_PAD, N_SEQ, pad
from .ram import MIB

# llama.cpp counts cells up to this
MAX_CELLS = 2**31 - N_CTX_PAD

# architectures whose attention has a bias by distance (ALiBi) without saying so in their files
WITH_ALIBI = ("bloom", "jina-bert-v2", "refact")

# architectures that read with an encoder
WITH_ENCODER = ("t5", "t5encoder")

# architectures that embed a text, or write it in any order, without a cache; `llama_model::create_memory`
WITHOUT_CACHE = (
    *("bert", "eurobert", "gemma-embedding", "jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe"),
    *("dream", "llada", "llada-moe", "rnd1", "wavtokenizer-dec"),
)

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


def _row_bytes(cache_type: str, n_numbers: int) -> int:
    """Bytes of a row of numbers, in whole blocks."""
    n_block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[cache_type.upper()]]
    return int(-(-n_numbers // n_block) * n_bytes)
