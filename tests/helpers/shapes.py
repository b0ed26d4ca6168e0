"""Shapes of tiny models, and models of which only the header is read."""

from pathlib import Path

import gguf
import numpy as np

from .context import Context
from .tiny import Spec

MIB, GIB = 2**20, 2**30

SPECS = {
    "MHA": Spec(n_head=4, n_head_kv=4),
    "GQA": Spec(n_head=6, n_head_kv=2, n_layer=5),
    "MQA": Spec(n_head=4, n_head_kv=1),
    "head 32": Spec(n_head_kv=2, head_dim=32),
    "head 128": Spec(n_head_kv=2, head_dim=128, n_layer=1),
    "ALiBi": Spec(arch="refact"),
    "windows": Spec(arch="gemma2", n_layer=5, window=8),
    "long windows": Spec(arch="gemma2", n_layer=4, window=100),
}


def open_context(path: Path, n_cells: int, n_batch: int, type_k: str, type_v: str) -> Context:
    """A context as `context.set_sequence_params` makes it."""
    types = {"type_k": type_k, "type_v": type_v}
    return Context(path, n_ctx=n_cells, n_ubatch=n_batch, n_seq_max=2, kv_unified=True, **types)


def write_header(path: Path, arch: str, numbers: dict[str, int | list[int]], tensor: bool = True) -> Path:
    """A model that only its header is read of: 4 layers, 8 heads of 8, and one tensor of 64 bytes."""
    writer = gguf.GGUFWriter(path, arch)
    defaults = {"context_length": 4096, "embedding_length": 64, "block_count": 4, "attention.head_count": 8}
    for name, value in (defaults | numbers).items():
        (writer.add_array if isinstance(value, list) else writer.add_uint32)(f"{arch}.{name}", value)
    if tensor:
        writer.add_tensor("token_embd.weight", np.zeros(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
