"""A model file to an engine."""

from pathlib import Path

from ..eviction.heads import HeadProfile, find_profile
from ..llamacpp.devices import gpus
from ..llamacpp.model import load_model
from ..planning.ram import free_memory
from ..planning.weights import check_gguf
from ..store.types import STORE_TYPES
from .engine import Engine
from .open_store import STORE_SIZE, open_store
from .plan import SkimMode


def open_model(
    path: str | Path,
    *,
    heads: HeadProfile | None = None,
    find_heads: bool = True,
    skim: SkimMode | str = SkimMode.AUTO,
    store: str | Path | None = None,
    store_size: int = STORE_SIZE,
    store_type: str = STORE_TYPES[0],
    n_gpu_layers: int = 0,
    n_batch: int = 512,
    n_ubatch: int = 512,
    n_threads: int | None = None,
    flash_attn: bool | str = "auto",
    type_k: int | str | None = None,
    type_v: int | str | None = None,
    seed: int = 0xFFFFFFFF,
    verbose: bool = False,
) -> Engine:
    """Open a model to read prompts one by one, with all options of reading.

    Args:
        path: A GGUF file.
        heads: Its head profile.
        find_heads: Whether to take the one that was calibrated, if none is given and there is one.
        skim: Whether reading may stop before the end of a document, see `SkimMode`.
        store: Folder that keeps what is read, so that another question need not read it again; None for none.
        store_size: Bytes of all files in it, at most.
        store_type: Of K and V of windows in the files: "q8_0", or "f16" to keep them to the bit.
        n_gpu_layers: Layers on the GPU, -1 for all.
        n_batch: Tokens that are read at once, 64 or more.
        n_ubatch: Tokens of them that are computed at once, 64 or more.
        n_threads: CPU threads, None for half of the cores.
        flash_attn: "auto", "on" or "off", or a bool.
        type_k: Type of K, a name as in llama.cpp ("q8_0") or its number.
        type_v: Type of V.
        seed: Of the sampler; 0xFFFFFFFF for a random one.
        verbose: Whether llama.cpp prints its log.

    Raises `ModelError` if the file is no model that llama.cpp can load, and `DapqError` if there can be no store.
    """
    path = check_gguf(Path(path))
    if find_heads and heads is None:
        heads = find_profile(path)
    ram = memory_before_loading(n_gpu_layers)
    model = load_model(
        path,
        n_gpu_layers=n_gpu_layers,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_threads=n_threads,
        n_threads_batch=n_threads,
        flash_attn=flash_attn,
        type_k=type_k,
        type_v=type_v,
        seed=seed,
        verbose=verbose,
    )
    stored = None if store is None else open_store(model, store, store_size, store_type)
    return Engine(model, heads, ram=ram, skim=skim, store=stored)


def memory_before_loading(n_gpu_layers: int) -> int:
    """Return the bytes that a model can take: of the system, and of GPUs if layers are on them."""
    return free_memory([device.free for device in gpus()] if n_gpu_layers else [])
