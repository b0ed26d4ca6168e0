"""Headers that were cut off or changed by chance: a shape, or an error of one line."""

import warnings

import gguf
import numpy as np
import pytest
from helpers.shapes import GIB
from helpers.tiny import Spec

from dapq_edge.errors import DapqError
from dapq_edge.planning.gguf_shape import read_shape
from dapq_edge.planning.planner import choose


@pytest.fixture
def broken(tmp_path):
    """A function that gives other bytes to `read_shape` and to all that uses it; returns whether they are a model."""
    number = 0

    def read(data: bytes) -> bool:
        nonlocal number
        number += 1
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                shape = read_shape(path)
                choose(shape, 64 * GIB, shape.n_ctx_train, "q8_0", "f16", 512)
        except DapqError as error:
            is_one_line = "\n" not in str(error)
            assert is_one_line
            return False
        finally:
            path.unlink()
        return True

    return read


@pytest.fixture(scope="module")
def small_gguf(tiny_model):
    """Bytes of a model with few weights, and where its header ends."""
    path = tiny_model(Spec(arch="gemma2", n_head=1, n_head_kv=1, head_dim=32, n_layer=2))
    return path.read_bytes(), gguf.GGUFReader(path).data_offset


def test_truncated_files(broken, small_gguf):
    data, n_header = small_gguf
    assert broken(data)
    for size in [*range(0, n_header, 101), n_header, n_header + 1000, len(data) - 1]:
        assert not broken(data[:size])


def test_fuzzed_headers(broken, small_gguf):
    """Some stay models; none raises anything else."""
    data, n_header = small_gguf
    rng = np.random.default_rng(1)
    values = np.array([0, 1, 2, 8, 9, 127, 128, 255], dtype=np.uint8)
    n_models = 0
    for _ in range(1500):
        changed = np.frombuffer(data, dtype=np.uint8).copy()
        # the vocabulary is long, and tells nothing
        start = rng.choice([0, 0, n_header - 2500])
        first = start + int(rng.integers(4, 900 if start == 0 else 2400))
        n_bytes = int(rng.choice([1, 1, 4, 8]))
        changed[first : first + n_bytes] = rng.choice(values, n_bytes)
        n_models += broken(changed.tobytes())
    assert 100 < n_models < 1400
