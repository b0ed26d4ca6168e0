"""Gather, probe and resize on a device, in a process of its own: a registered device stays registered."""

import subprocess
import sys
from pathlib import Path

import pytest

from dapq_edge.rpc import has_rpc

pytestmark = pytest.mark.skipif(not has_rpc(), reason="llama.cpp was built without RPC")

SCRIPT = """
import sys
from pathlib import Path

import llama_cpp
import numpy as np
from context import Context
from device import rpc_device
from llama_cpp._logger import set_verbose
from test_probe import N_PROMPT, PROBE, PROMPT
from tiny import Spec, write_gguf

from dapq_edge import native

set_verbose(False)
arch, type_k, type_v, flash_attn, unified, n_layers = sys.argv[2:]
spec = Spec(arch=arch, n_layer=4, n_head_kv=2)
path = write_gguf(spec, Path(sys.argv[1]) / "tiny.gguf")


def run(n_gpu_layers):
    '''All that must be the same on the host and on the device.'''
    options = dict(n_seq_max=2, kv_unified=unified == "1", type_k=type_k, type_v=type_v, flash_attn=flash_attn == "1")
    with Context(path, n_gpu_layers=n_gpu_layers, **options) as c:
        assert c.decode(PROMPT, 0) == 0
        before = c.state()
        rng = np.random.default_rng(0)

        def keep(counts):
            layers = zip(native.gather_heads(c.ctx).values(), counts, strict=False)
            return [np.sort([rng.choice(N_PROMPT, n, replace=False) for _ in range(n_head)]) for n_head, n in layers]

        native.seq_gather(c.ctx, 0, 1, keep([20] * 4))
        branch = c.state(1)
        assert c.state() == before
        assert c.decode(PROBE, N_PROMPT, seq_id=1) == 0
        native.seq_gather(c.ctx, 0, 0, keep([20, 33, 9, 50] if unified == "1" else [20] * 4))
        gathered, probed = c.state(), native.probe(c.ctx, 0, PROBE, N_PROMPT)
        native.resize(c.ctx, 256)
        assert c.state() == gathered
        assert c.decode(PROBE, N_PROMPT) == 0
        return before, branch, gathered, probed, c.logits


with rpc_device():
    assert llama_cpp.llama_supports_gpu_offload()
    for host, device in zip(run(0), run(int(n_layers)), strict=True):
        if isinstance(host, bytes):
            assert host == device
        else:
            np.testing.assert_allclose(device, host, rtol=1e-3, atol=1e-4)
print("same")
"""


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
def test_device_is_as_the_host(tmp_path, arch, type_k, type_v, flash_attn, unified, n_layers):
    args = [arch, type_k, type_v, str(int(flash_attn)), str(int(unified)), str(n_layers)]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *args],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.strip() == "same", result.stderr[-2000:]
