"""The shape of a model, read from its header, which may be wrong."""

import gguf
import numpy as np
import pytest
from helpers.shapes import write_header
from helpers.tiny import Spec

from dapq_edge.errors import ModelError
from dapq_edge.planning.gguf_shape import read_shape
from dapq_edge.planning.model_shape import Layer


def test_weights(tiny_model):
    spec = Spec()
    assert read_shape(tiny_model(spec)).weight_bytes == sum(weight.nbytes for weight in spec.weights.values())


NONE, FULL = Layer(0, 8, 8), Layer(8, 8, 8)


@pytest.mark.parametrize(
    ("arch", "numbers", "layers"),
    [
        ("llama", {"attention.head_count_kv": [1, 2, 4, 8]}, [Layer(n, 8, 8) for n in (1, 2, 4, 8)]),
        ("llama", {"nextn_predict_layers": 1}, 3 * [FULL]),
        ("deepseek2", {"attention.head_count_kv": 1, "attention.key_length": 24, "attention.value_length": 16}
         | {"attention.key_length_mla": 12, "attention.value_length_mla": 8}, 4 * [Layer(1, 24, 0)]),
        ("jamba", {"attention.head_count_kv": [0, 0, 2, 0]}, [NONE, NONE, Layer(2, 8, 8), NONE]),
        ("qwen3next", {"full_attention_interval": 2}, [NONE, FULL, NONE, FULL]),
        ("qwen35", {"attention.recurrent_layers": [1, 0, 0, 1]}, [NONE, FULL, FULL, NONE]),
        ("gpt-oss", {"attention.sliding_window": 128}, 2 * [Layer(8, 8, 8, 128), FULL]),
        ("gpt-oss", {"attention.sliding_window": 128, "attention.sliding_window_pattern": 4},
         [*3 * [Layer(8, 8, 8, 128)], FULL]),
        ("lfm2", {"attention.sliding_window": 32, "attention.head_count_kv": [0, 8, 0, 8]},
         2 * [Layer(0, 8, 8, 32), Layer(8, 8, 8, 32)]),
        ("llama4", {}, [*3 * [Layer(8, 8, 8, 8192)], FULL]),
        ("llama4", {"attention.sliding_window": 0}, 4 * [FULL]),
        ("gemma4", {"attention.sliding_window": 32, "attention.sliding_window_pattern": [1, 0, 1, 0]}
         | {"attention.key_length_swa": 4, "attention.value_length_swa": 2, "attention.shared_kv_layers": 1},
         [Layer(8, 4, 2, 32), FULL, Layer(8, 4, 2, 32), NONE]),
        # llama.cpp knows no windows of these, or we do not: never too little
        ("phi3", {"attention.sliding_window": 32}, 4 * [FULL]),
        ("unheard-of", {"attention.sliding_window": 32, "attention.sliding_window_pattern": 2}, 4 * [FULL]),
    ],
)  # fmt: skip
def test_layers(tmp_path, arch, numbers, layers):
    assert list(read_shape(write_header(tmp_path / "model.gguf", arch, numbers)).layers) == layers


@pytest.mark.parametrize(
    ("arch", "numbers", "obstacle"),
    [
        ("llama", {"attention.indexer.top_k": 0}, ""),
        ("glm-dsa", {"attention.indexer.top_k": 2048}, "sparse attention"),
        ("qwen4exp", {"attention.indexer.top_k": 512, "full_attention_interval": 4}, "sparse attention"),
        ("llada", {}, "no KV cache"),
        ("t5", {}, "encoder"),
        ("mamba2", {"attention.head_count": 0, "ssm.state_size": 16}, "recurrent states"),
        ("lfm2", {"attention.sliding_window": 32}, "sliding windows"),
        ("gemma3", {"attention.sliding_window": 32, "attention.sliding_window_pattern": 8}, "sliding windows"),
    ],
)
def test_obstacles(tmp_path, arch, numbers, obstacle):
    found = read_shape(write_header(tmp_path / "model.gguf", arch, numbers)).obstacle
    assert obstacle in found
    assert bool(obstacle) == bool(found)


def test_split_model(tmp_path):
    """The weights of all parts, of which the first may have none."""
    parts = [tmp_path / f"a-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for part in parts:
        write_header(part, "llama", {}, tensor=part != parts[0])
    assert read_shape(parts[0]).weight_bytes == 2 * 64
    none = parts[1].rename(tmp_path / "b-00001-of-00000.gguf")
    assert read_shape(none).weight_bytes == 64
    none.rename(parts[1])
    parts[2].unlink()
    with pytest.raises(ModelError, match=r"cannot read .*a-00003-of-00003.gguf: No such file"):
        read_shape(parts[0])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"block_count": 2**32 - 1}, "4294967295 layers"),
        ({"block_count": 0}, "0 layers"),
        ({"nextn_predict_layers": 5}, "-1 layers"),
        ({"context_length": 0}, "trained for 0 tokens"),
        ({"attention.head_count_kv": [1, 2]}, "head_count_kv does not have a number for each layer"),
        ({"attention.key_length": [1, 2]}, "key_length is no natural number"),
    ],
)
def test_wrong_numbers(tmp_path, numbers, message):
    with pytest.raises(ModelError, match=message):
        read_shape(write_header(tmp_path / "model.gguf", "llama", numbers))


def test_no_language_model(tmp_path, tiny_model):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_tensor("v", np.zeros(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"is no language model: it has no clip.embedding_length$"):
        read_shape(path)
    with pytest.raises(ModelError, match="bytes"):
        read_shape(write_header(path, "llama", {}, tensor=False))
    path.write_bytes(b"GGML" + bytes(100))
    with pytest.raises(ModelError, match="is not a GGUF file"):
        read_shape(path)
