"""Gather, probe and resize on a device against the same on the CPU; tests/native/test_device.py runs it.

python -m helpers.device_job DEVICE FOLDER CHECK [CACHE...]

A process of its own: a device that is registered stays registered. It prints "same" in the end, or exits with
"skipped: ...".
"""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from llama_cpp._logger import set_verbose

from dapq_edge import open_model
from dapq_edge.calibration.sensitivity import find_sensitivity
from dapq_edge.errors import DapqError
from dapq_edge.llamacpp import native
from dapq_edge.llamacpp.native import ProbeType

from .checks import eviction_error, opened
from .context import Context
from .device import Tested, opened_device
from .families import FAMILIES, REFUSED, write_family
from .gathered import cells_of, floats, stored
from .reading import make_prompt
from .tiny import Spec, write_gguf
from .tokens import N_PROMPT, PROBE, PROMPT, random_tokens

# of the largest attention, or of the largest logit; the CPU rounds Q to the type of K, not every device does
TOLERANCES, TOLERANCE_QUANTIZED = {"f16": 2e-3, "bf16": 1e-2}, 5e-2

# experts that a router chooses by a hair's breadth
FAMILY_TOLERANCE = 5e-3


def random_keep(c: Context, counts: list[int], n_cells: int, rng: np.random.Generator) -> list[np.ndarray]:
    layers = zip(native.gather_heads(c.ctx).values(), counts, strict=False)
    return [np.sort([rng.choice(n_cells, n, replace=False) for _ in range(n_head)]) for n_head, n in layers]


def check_gathered(c: Context, seq_id: int, stored: list[np.ndarray], keep: list[np.ndarray]) -> None:
    """The rows of each head are those that it kept, to the byte."""
    cells = cells_of(c, seq_id)[0].data
    for actual, rows, kept in zip(cells, stored, keep * 2, strict=True):
        assert (actual == np.take_along_axis(rows, kept.T[..., None], axis=0)).all()


def check_values(c: Context, type_v: str) -> None:
    """V of each layer is what the state has of it, and what is put in its place."""
    expected, layers = cells_of(c, 0)[0].data, native.gather_heads(c.ctx)
    for i, layer in enumerate(layers, start=len(layers)):
        values = native.seq_values(c.ctx, 0, layer)
        np.testing.assert_array_equal(values, floats(expected[i], type_v))
        new = np.random.default_rng(layer).permuted(values, axis=1)
        expected[i] = stored(new, type_v)
        native.set_seq_values(c.ctx, 0, layer, new)
    for actual, rows in zip(cells_of(c, 0)[0].data, expected, strict=True):
        assert (actual == rows).all()


def run(path: Path, n_gpu_layers: int, unified: bool, **options: Any) -> list[np.ndarray]:
    """Attention and logits, before and after evictions."""
    with Context(path, n_gpu_layers=n_gpu_layers, n_seq_max=2, kv_unified=unified, **options) as c:
        assert c.decode(PROMPT, 0) == 0
        before, stored, rng = c.state(), cells_of(c, 0)[0].data, np.random.default_rng(0)
        results = [native.probe(c.ctx, 0, PROBE, N_PROMPT, kind) for kind in ProbeType]
        keep = random_keep(c, [20] * 4, N_PROMPT, rng)
        native.seq_gather(c.ctx, 0, 1, keep)
        check_gathered(c, 1, stored, keep)
        assert c.state() == before
        assert c.decode(PROBE, N_PROMPT, seq_id=1) == 0
        results.append(c.logits)
        if unified and n_gpu_layers:
            with pytest.raises(DapqError):
                native.seq_gather(c.ctx, 0, 0, random_keep(c, [50, 33, 9, 20], N_PROMPT, np.random.default_rng(1)))
            assert c.state() == before
        keep = random_keep(c, [8, 40, 8, 72] if unified else [20] * 4, N_PROMPT, rng)
        native.seq_gather(c.ctx, 0, 0, keep)
        check_gathered(c, 0, stored, keep)
        check_values(c, options["type_v"])
        gathered = c.state()
        results.append(native.probe(c.ctx, 0, PROBE, N_PROMPT))
        native.resize(c.ctx, 256)
        assert c.state() == gathered
        assert c.decode(PROBE, N_PROMPT) == 0
        return [*results, c.logits, check_first_layers(c)]


def check_first_layers(c: Context) -> np.ndarray:
    """K, V and attention of two of four layers are those of a whole evaluation, to the byte; returns the attention."""
    llama_cpp.llama_memory_clear(c.memory, False)
    assert c.decode(PROMPT, 0) == 0
    whole, attention = cells_of(c, 0)[0].data, native.probe(c.ctx, 0, PROBE, N_PROMPT)
    llama_cpp.llama_memory_clear(c.memory, False)
    native.set_n_layer_eval(c.ctx, 2)
    assert c.decode(PROMPT, 0, logits=False) == 0
    # the layers of a cache are those of the model if none has a window
    if len(native.gather_heads(c.ctx)) == 4:
        first = cells_of(c, 0)[0].data
        for i in (0, 1, 4, 5):
            assert first[i].tobytes() == whole[i].tobytes()
    rows = native.probe(c.ctx, 0, PROBE, N_PROMPT)
    assert rows.tobytes() == attention[: len(rows)].tobytes()
    return rows


def check_results(path: Path, arguments: list[str]) -> None:
    type_k, type_v, flash_attn, unified, n_layers = arguments
    options = {"type_k": type_k, "type_v": type_v, "flash_attn": flash_attn == "1", "unified": unified == "1"}
    tolerance = max(TOLERANCES.get(kind, TOLERANCE_QUANTIZED) for kind in (type_k, type_v))
    for host, device in zip(run(path, 0, **options), run(path, int(n_layers), **options), strict=True):
        error = np.abs(device - host).max() / np.abs(host).max()
        assert error <= tolerance, error


def check_families(folder: Path) -> None:
    """Attention of each family of models, and what is left of it after an eviction."""
    for name in FAMILIES:
        if name in REFUSED:
            continue
        path = write_family(name, folder / "family.gguf")
        attention = []
        for n_gpu_layers in (0, 99):
            with opened(path, n_gpu_layers=n_gpu_layers) as cache:
                cache.read(PROMPT)
                before = cache.probe(PROBE, N_PROMPT, ProbeType.NONE)
            attention.append(np.concatenate([layer.attention.ravel() for layer in before]))
        error = np.abs(attention[1] - attention[0]).max() / attention[0].max()
        evicted = eviction_error(path, PROMPT, PROBE, n_gpu_layers=99)
        print(f"{name}: attention {error:.1e}, eviction {evicted:.1e}")
        assert max(error, evicted) <= FAMILY_TOLERANCE


def check_copies(path: Path, device: Tested) -> None:
    """A gather brings nothing of the cache to the host, and a probe its scores alone, with the logits beside them."""
    n_prompt = 4000
    with Context(path, n_gpu_layers=99, n_ctx=4096 + 64) as c:
        assert c.decode(random_tokens(n_prompt, 1), 0) == 0
        n_cache = native.memory_bytes(c.ctx) * n_prompt // native.n_cells(c.ctx)
        native.probe(c.ctx, 0, PROBE, n_prompt, ProbeType.MAX)
        before = device.n_copied()
        # the state is the cache on the host
        assert len(c.state()) >= n_cache <= device.n_copied() - before
        before = device.n_copied()
        n_scores = native.probe(c.ctx, 0, PROBE, n_prompt, ProbeType.MAX).nbytes
        n_probe = device.n_copied() - before
        keep = random_keep(c, [400] * 4, n_prompt, np.random.default_rng(0))
        before = device.n_copied()
        native.seq_gather(c.ctx, 0, 0, keep)
        n_gather = device.n_copied() - before
    print(f"cache {n_cache:,} bytes, scores {n_scores:,}; copied by the probe {n_probe:,}, by the gather {n_gather:,}")
    assert n_scores <= n_probe < n_scores + n_cache // 10
    assert n_gather < n_cache // 10


def soon(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold: a server frees memory after it has answered."""
    for _ in range(300):
        if holds():
            return True
        time.sleep(0.1)
    return False


def check_memory(path: Path, device: Tested) -> None:
    """What a smaller cache leaves free is free on the device."""
    with Context(path, n_gpu_layers=99, n_ctx=2**17) as c:
        most, n_bytes = device.n_used(), native.memory_bytes(c.ctx)
    if not soon(lambda: most - device.n_used() >= 0.9 * n_bytes):
        sys.exit("skipped: the device does not say that what a context leaves is free")
    with Context(path, n_gpu_layers=99, n_ctx=2**17) as c:
        assert c.decode(PROMPT, 0) == 0
        before, n_bytes = device.n_used(), native.memory_bytes(c.ctx)
        native.resize(c.ctx, 256)
        n_bytes -= native.memory_bytes(c.ctx)
        assert soon(lambda: before - device.n_used() >= 0.9 * n_bytes)
        assert n_bytes > 2**27
        print(f"{n_bytes:,} bytes less, {before - device.n_used():,} given back")
        assert c.decode(PROBE, N_PROMPT) == 0


def check_sensitivity(path: Path, device: Tested) -> None:
    """What evicting one layer does is measured there as on the host."""
    shares = []
    for n_layers in (0, 99):
        with contextlib.closing(open_model(path, n_threads=1, n_gpu_layers=n_layers)) as engine:
            shares.append(list(find_sensitivity(engine, [make_prompt(400)]).values()))
    assert shares[1] == pytest.approx(shares[0], abs=0.05)


def main() -> None:
    set_verbose(False)
    name, folder, check, *arguments = sys.argv[1:]
    arch = arguments.pop(0) if arguments else "llama"
    path = write_gguf(Spec(arch=arch, n_layer=4, n_head_kv=2, n_ctx=2**17), Path(folder) / "tiny.gguf")
    with opened_device(name) as device:
        if check == "results":
            check_results(path, arguments)
        elif check == "families":
            check_families(Path(folder))
        else:
            checks = {"copies": check_copies, "memory": check_memory, "sensitivity": check_sensitivity}
            checks[check](path, device)
    print("same")


if __name__ == "__main__":
    main()
