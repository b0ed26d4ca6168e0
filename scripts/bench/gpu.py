"""Long prompts on a GPU: stock, one-shot eviction, and both ways of reading in bounded memory.

    GPU_BACKEND=CUDA ./scripts/test_gpu.sh && .venv/bin/python scripts/bench/gpu.py --json gpu.json

The models have the shapes of Llama 3.2 1B and Llama 3.1 8B and random weights in q4_0, written on the spot: 0.8 GB and
4.5 GB in --folder. Speed and memory do not depend on the weights. `reading.py` measures; --json gets a file for each
shape.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import reading

from dapq_edge.llamacpp.devices import gpus
from dapq_edge.llamacpp.log import captured_log

Q4_0 = gguf.GGMLQuantizationType.Q4_0

# weights of a block: a scale, f16, and 4 bits for each
N_BLOCK, BLOCK = 32, np.dtype([("scale", "<f2"), ("weights", "u1", 16)])


@dataclass(frozen=True)
class Shape:
    """Shape of a Llama model."""

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        n_q, n_kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (self.n_vocab, self.n_embd),
            "output_norm.weight": (self.n_embd,),
        }
        for il in range(self.n_layer):
            layer = {
                "attn_norm": (self.n_embd,),
                "attn_q": (n_q, self.n_embd),
                "attn_k": (n_kv, self.n_embd),
                "attn_v": (n_kv, self.n_embd),
                "attn_output": (self.n_embd, n_q),
                "ffn_norm": (self.n_embd,),
                "ffn_gate": (self.n_ff, self.n_embd),
                "ffn_up": (self.n_ff, self.n_embd),
                "ffn_down": (self.n_embd, self.n_ff),
            }
            shapes |= {f"blk.{il}.{name}.weight": shape for name, shape in layer.items()}
        return shapes


SHAPES = {
    "tiny": Shape(4, 256, 8, 2, 32, 512, 1024),
    "1b": Shape(16, 2048, 32, 8, 64, 8192, 128256),
    "8b": Shape(32, 4096, 32, 8, 128, 14336, 128256),
}


def write_model(shape: Shape, path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2**18)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    add_vocabulary(writer, shape.n_vocab)
    for name, dims in shape.tensors.items():
        if len(dims) == 1:
            writer.add_tensor_info(name, dims, np.dtype(np.float32), 4 * dims[0])
        else:
            n_bytes = dims[0] * dims[1] // N_BLOCK * BLOCK.itemsize
            row = dims[1] // N_BLOCK * BLOCK.itemsize
            writer.add_tensor_info(name, (dims[0], row), np.dtype(np.uint8), n_bytes, Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    for dims in shape.tensors.values():
        # one tensor at a time, not to hold the model
        writer.write_tensor_data(np.ones(dims, np.float32) if len(dims) == 1 else random_blocks(rng, dims))
    writer.close()
    return path


def random_blocks(rng: np.random.Generator, dims: tuple[int, ...]) -> np.ndarray:
    """Return weights that keep what goes through them as large: uint8 [rows, bytes]."""
    n_blocks = dims[1] // N_BLOCK
    blocks = np.empty((dims[0], n_blocks), BLOCK)
    blocks["scale"] = 1 / (4.6 * np.sqrt(dims[1]))
    blocks["weights"] = rng.integers(0, 256, (dims[0], n_blocks, 16), dtype=np.uint8)
    return blocks.view(np.uint8).reshape(dims[0], -1)


def add_vocabulary(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    """Add bytes, and words that no text has."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, *2 * [gguf.TokenType.CONTROL], *256 * [gguf.TokenType.BYTE]]
    n_words = n_vocab - len(tokens)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*tokens, *(f"▁w{i}" for i in range(n_words))])
    writer.add_token_types([*kinds, *n_words * [gguf.TokenType.NORMAL]])
    writer.add_token_scores(n_vocab * [0.0])
    writer.add_bos_token_id(1)
    # an answer does not end early
    writer.add_eos_token_id(n_vocab - 1)
    writer.add_unk_token_id(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1b", "8b"])
    parser.add_argument("--folder", type=Path, help="keep the models here (default: a temporary folder)")
    reading.add_options(parser)
    parser.set_defaults(n_gpu_layers=-1, budgets=[1024], lengths=[8192, 32768, 131072], rounds=1)
    parser.set_defaults(quantized_up_to=0, one_shot_up_to=2**20)
    args = parser.parse_args()
    print(*[f"{gpu.name}: {gpu.free / 2**30:.1f} GiB free" for gpu in gpus()] or ["no GPU"], sep="\n")
    json_path = args.json
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.shapes:
            path = (args.folder or Path(temporary)) / f"random-{name}.gguf"
            if not path.exists():
                write_model(SHAPES[name], path)
            args.model, args.json = str(path), json_path and json_path.with_stem(f"{json_path.stem}-{name}")
            reading.print_table(reading.medians(reading.run(args)), f"{name}: ")
            if not args.folder:
                path.unlink()


if __name__ == "__main__":
    with captured_log():
        sys.exit(main())
