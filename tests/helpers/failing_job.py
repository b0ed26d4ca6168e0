"""What is left behind by an allocation or a computation that fails; tests/native/test_after_errors.py runs it.

python -m helpers.failing_job CHECK MODEL [OPTION...]

A process of its own, with the library that helpers/fail.cpp makes in LD_PRELOAD. It prints "same" in the end.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp._logger import set_verbose

from dapq_edge.llamacpp import native

from .context import Context
from .device import COUNTER, opened_device
from .gathered import keep_all, load, random_keep
from .tokens import N_PROMPT, PROBE, PROMPT, random_tokens

CELLS = {"n_ctx": 256, "n_seq_max": 2, "kv_unified": True}


class Faults:
    """The variables of the library."""

    def __init__(self) -> None:
        # it looks for the functions among those that all libraries see
        ctypes.CDLL(llama_cpp.llama_cpp._lib._name, mode=ctypes.RTLD_GLOBAL)
        # a server that this process starts is not to fail
        library = ctypes.CDLL(os.environ.pop(COUNTER))
        self.allocation = ctypes.c_long.in_dll(library, "fail_allocation")
        self.size = ctypes.c_size_t.in_dll(library, "fail_size")
        self.computation = ctypes.c_int.in_dll(library, "fail_computation")
        self.transfers = ctypes.c_long.in_dll(library, "n_transfers")


def gather(c: Context, dst: int, keep: list[np.ndarray]) -> int:
    n_keep, cells = native._int32([k.shape[1] for k in keep]), native._int32(np.concatenate([k.ravel() for k in keep]))
    return native._function("llama_memory_seq_gather")(
        c.ctx,
        0,
        dst,
        native._pointer(n_keep, native._INT32_P),
        n_keep.size,
        native._pointer(cells, native._INT32_P),
        cells.size,
    )


def probe(c: Context) -> int:
    tokens = native._int32(PROBE)
    return native._function("llama_attn_probe")(
        c.ctx,
        0,
        native._pointer(tokens, native._INT32_P),
        tokens.size,
        N_PROMPT,
        native.ProbeType.MAX,
        native._PROBE_CALLBACK(lambda *_: None),
        None,
    )


def put_values(c: Context, values: np.ndarray, name: str = "set") -> int:
    """Get the values of the last layer, or put them where they were."""
    last, data = list(native.gather_heads(c.ctx))[-1], native._pointer(values, native._FLOAT_P)
    return native._function(f"llama_memory_seq_v_{name}")(c.ctx, 0, last, data, values.size)


def states(c: Context) -> tuple:
    return c.state(0), c.state(1), native.n_cells(c.ctx), native.memory_bytes(c.ctx)


def each_allocation(path: Path, what: str, kind: str, faults: Faults) -> None:
    """One allocation after the other fails; nothing has changed then, and the next calls do what they should."""
    calls: dict[str, Callable[[Context], int]] = {
        "gather": lambda c: gather(c, 0, keep),
        "copy": lambda c: gather(c, 1, keep),
        "probe": probe,
        "values": lambda c: put_values(c, values, kind),
        "resize": lambda c: native._function("llama_memory_resize")(c.ctx, 512 if kind == "up" else 256),
    }
    n_failed, n_removed, k, options = 0, 0, 0, CELLS | ({"n_ctx": 512} if kind == "down" else {})
    with Context(path, **options) as c, Context(path, **options) as stock:
        is_hybrid = llama_cpp.llama_model_is_hybrid(c.model)
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
        before, keep = states(c), random_keep(c, [20, 12, 16] if kind == "uneven" else 20)
        values = native.seq_values(c.ctx, 0, list(native.gather_heads(c.ctx))[-1])
        while True:
            k += 1
            faults.allocation.value = k
            code = calls[what](c)
            was_reached, faults.allocation.value = faults.allocation.value == 0, 0
            assert code in (0, -3), (k, code)
            if code == 0 and not was_reached:
                break
            if code == -3:
                n_failed += 1
                if is_hybrid and native.seq_positions(c.ctx, 0).size == 0:
                    # the state of the recurrent layers could not be put back
                    n_removed += 1
                    assert c.decode(PROMPT, 0) == 0
                assert states(c) == before, k
                # a decode reserves again what failed
                assert c.decode(PROBE, N_PROMPT) == stock.decode(PROBE, N_PROMPT) == 0
                assert c.logits.tobytes() == stock.logits.tobytes(), k
            if k > 1 or code == -3:
                for context in (c, stock):
                    llama_cpp.llama_memory_clear(context.memory, True)
                if what == "resize" and code == 0:
                    native.resize(c.ctx, before[2])
                for context in (c, stock):
                    assert context.decode(PROMPT, 0) == 0
                assert states(c) == before, k
    print(f"{k} allocations, {n_failed} times -3, {n_removed} times removed")
    assert n_failed > 5
    # putting back a recurrent state allocates
    assert n_removed < n_failed / 2


def buffers(path: Path, _what: str, _kind: str, faults: Faults) -> None:
    """No buffer for the graph of a first probe: the next decode reserves it again, and says that it cannot."""
    with Context(path, n_ctx=2**13, flash_attn=False) as c, Context(path, n_ctx=2**13, flash_attn=False) as stock:
        assert c.decode(PROMPT, 0) == stock.decode(PROMPT, 0) == 0
        before, faults.size.value = c.state(), 2**20
        assert probe(c) == -3
        assert c.decode(PROBE, N_PROMPT) == -2
        assert probe(c) == -3
        faults.size.value = 0
        assert c.state() == before
        assert probe(c) == 0
        assert c.decode(PROBE, N_PROMPT) == stock.decode(PROBE, N_PROMPT) == 0
        assert c.logits.tobytes() == stock.logits.tobytes()
    # the masks of uneven layers are not in what was reserved
    with Context(path, n_ctx=256) as c, Context(path, n_ctx=256) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
            assert gather(context, 0, random_keep(context, [20, 12, 16])) == 0
        tokens = random_tokens(236, 2)
        before, faults.size.value = c.state(), 2**14
        codes = [c.decode(tokens, N_PROMPT) for _ in range(3)]
        faults.size.value = 0
        assert codes == [-2] * 3, codes
        assert c.state() == before
        for context in (c, stock):
            assert context.decode(tokens, N_PROMPT) == 0
        assert c.logits.tobytes() == stock.logits.tobytes()


def computation(path: Path, _what: str, _kind: str, faults: Faults) -> None:
    """Rows have moved, others have not: the sequence is empty in all layers, and starts again as in a new context."""
    with opened_device("rpc"), Context(path, n_gpu_layers=99, **CELLS) as c:
        with Context(path, n_gpu_layers=99, **CELLS) as fresh:
            assert fresh.decode(PROBE, 0) == 0
            expected = fresh.logits
        for dst in (0, 1):
            assert c.decode(PROMPT, 0) == 0
            before, faults.computation.value = c.state(0), 1
            assert gather(c, dst, keep_all(c)) == -3
            faults.computation.value = 0
            assert native.seq_positions(c.ctx, dst).size == 0
            assert llama_cpp.llama_memory_seq_pos_max(c.memory, dst) == -1
            assert dst == 0 or c.state(0) == before
            assert c.decode(PROBE, 0, seq_id=dst) == 0
            assert np.abs(c.logits - expected).max() <= 1e-3 * np.abs(expected).max()
            llama_cpp.llama_memory_clear(c.memory, True)
        assert c.decode(PROMPT, 0) == 0
        assert load(c, c.state(0), 1)


def transfers(path: Path, type_k: str, type_v: str, faults: Faults) -> None:
    """The used rows of a tensor go to the host once and back once, where no operation of ggml moves them."""
    with opened_device("rpc"), Context(path, n_gpu_layers=99, type_k=type_k, type_v=type_v, **CELLS) as c:
        assert c.decode(PROMPT, 0) == 0
        keep, before = random_keep(c, 20), faults.transfers.value
        assert gather(c, 0, keep) == 0
        n_transfers = faults.transfers.value - before
        print(f"{n_transfers} transfers for {len(keep)} layers")
        assert n_transfers <= 4 * len(keep)


def main() -> None:
    set_verbose(False)
    check, path, *options = sys.argv[1:]
    checks = {"allocation": each_allocation, "buffers": buffers, "computation": computation, "transfers": transfers}
    checks[check](Path(path), *options, faults=Faults())
    print("same")


if __name__ == "__main__":
    main()
