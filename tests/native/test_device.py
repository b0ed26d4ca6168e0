"""Gather, probe and resize on a device: a GPU if there is one, and llama.cpp's RPC backend.

See helpers/device_job.py.
"""

import pytest
from helpers.device import COUNTER
from helpers.processes import preloaded, run_job

from dapq_edge.llamacpp.devices import gpus
from dapq_edge.llamacpp.rpc import has_rpc

# each test starts processes
pytestmark = pytest.mark.slow

DEVICES = [
    pytest.param("rpc", marks=pytest.mark.skipif(not has_rpc(), reason="llama.cpp was built without RPC")),
    pytest.param("gpu", marks=pytest.mark.skipif(not gpus(), reason="no GPU that this build of llama.cpp can use")),
]


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """The library that counts what ggml copies."""
    return preloaded("count_copies.c", "cc", tmp_path_factory.mktemp("counter"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_layers", [99, 2])
@pytest.mark.parametrize(
    ("arch", "type_k", "type_v", "flash_attn", "unified"),
    [
        ("llama", "f16", "f16", True, True),
        ("llama", "f16", "f16", False, True),
        ("llama", "bf16", "bf16", True, False),
        ("llama", "q8_0", "q4_0", True, True),
        ("llama", "q5_0", "q5_0", True, False),
        ("gemma2", "f16", "f16", False, True),
    ],
)
def test_device_is_as_the_host(tmp_path, device, n_layers, arch, type_k, type_v, flash_attn, unified):
    run_job("device_job", device, tmp_path, "results", arch, type_k, type_v, int(flash_attn), int(unified), n_layers)


@pytest.mark.parametrize("device", DEVICES)
def test_families_are_as_on_the_host(tmp_path, device):
    run_job("device_job", device, tmp_path, "families")


@pytest.mark.parametrize("device", DEVICES)
def test_the_cache_is_not_copied_to_the_host(tmp_path, device, counter):
    run_job("device_job", device, tmp_path, "copies", **({COUNTER: str(counter)} if device == "gpu" else {}))


@pytest.mark.parametrize("device", DEVICES)
def test_memory_of_the_device_is_given_back(tmp_path, device):
    run_job("device_job", device, tmp_path, "memory")


@pytest.mark.parametrize("device", DEVICES)
def test_sensitivity_is_measured_on_a_device(tmp_path, device):
    run_job("device_job", device, tmp_path, "sensitivity")
