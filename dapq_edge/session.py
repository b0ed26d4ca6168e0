"""Sessions: the sequence of a `Llama`, evicted or not, in one file."""

import ctypes
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from ._version import PATCH_VERSION
from .cache import Record
from .errors import DapqError
from .files import write_atomically
from .heads import model_hash
from .llama import Eviction, Llama

# a file: MAGIC, the SHA-256 of the rest, and the rest as numpy's .npz
MAGIC = b"DAPQSES1"
N_DIGEST = hashlib.sha256().digest_size


def save_session(llama: Llama, path: Path, conversation: Any) -> None:
    """Save the sequence of `llama`: its tokens, which of them each head keeps, and their K and V.

    conversation: what else belongs to it, as JSON. A file that is there stays whole until the new one is. Raises
    `DapqError`.
    """
    eviction = llama.eviction
    header = {
        "model": model_hash(Path(llama.model_path)),
        "patch": PATCH_VERSION,
        "types": llama.cache_types,
        "n_gathered": eviction.record.n_gathered,
        "n_skipped": eviction.n_skipped,
        "has_document": eviction.has_document,
        "n_cells": llama.kv_cache.n_used,
        "conversation": conversation,
    }
    arrays = {
        "header": np.frombuffer(json.dumps(header).encode("utf-8", "surrogatepass"), dtype=np.uint8),
        "text": llama.input_ids[: llama.n_tokens].astype(np.int32),
        "tokens": np.array(eviction.record.tokens, dtype=np.int32),
        "places": eviction.places.astype(np.int32),
        "logits": eviction.logits if eviction.logits is not None else np.empty(0, np.float32),
        "state": _state(llama),
    }
    arrays |= {f"kept{i}": heads.astype(np.int32) for i, heads in enumerate(eviction.record.kept)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    data = file.getvalue()
    write_atomically(path, MAGIC + hashlib.sha256(data).digest() + data)


def load_session(llama: Llama, path: Path) -> Any:
    """Put a sequence that was saved into `llama`; returns its conversation.

    Raises `DapqError`, and leaves `llama` as it was, if the file cannot be read, is no session or damaged, or is of
    another model, patch or cache type; `llama` is empty if llama.cpp refuses the cells.
    """
    arrays = _read(path)
    header = json.loads(bytes(arrays["header"]))
    if header["patch"] != PATCH_VERSION:
        raise DapqError(f"{path} was saved with patch version {header['patch']}, not {PATCH_VERSION}")
    if header["model"] != model_hash(Path(llama.model_path)):
        raise DapqError(f"{path} is a session of another model")
    if tuple(header["types"]) != llama.cache_types:
        raise DapqError(f"{path} was saved with -ctk {header['types'][0]} -ctv {header['types'][1]}")
    llama.extend(len(arrays["text"]) + 1)
    if header["n_cells"] > llama.usage.n_cells:
        raise DapqError(f"{path} has {header['n_cells']:,} cells: raise --kv-budget or -c")
    kept = [arrays[f"kept{i}"].astype(np.intp) for i in range(sum(name.startswith("kept") for name in arrays))]
    record = Record(arrays["tokens"].tolist(), kept, header["n_gathered"])
    llama.reset()
    state = (ctypes.c_uint8 * arrays["state"].size).from_buffer_copy(arrays["state"].tobytes())
    if llama_cpp.llama_state_seq_set_data(llama.ctx, state, len(state), 0) == 0:
        llama.reset()
        raise DapqError(f"llama.cpp refuses the cells of {path}: were they saved with another -fa?")
    logits = arrays["logits"] if arrays["logits"].size else None
    places = arrays["places"].astype(np.intp)
    eviction = Eviction(record, header["n_skipped"], places, logits, header["has_document"])
    llama.set_sequence(arrays["text"], eviction)
    return header["conversation"]


def _state(llama: Llama) -> npt.NDArray[np.uint8]:
    """K and V of the sequence."""
    state = np.empty(llama_cpp.llama_state_seq_get_size(llama.ctx, 0), dtype=np.uint8)
    pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    if llama_cpp.llama_state_seq_get_data(llama.ctx, pointer, state.size, 0) != state.size:
        raise DapqError("llama.cpp cannot save the cells of the sequence")
    return state


def _read(path: Path) -> dict[str, npt.NDArray]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DapqError(f"cannot read {path}: {error.strerror}") from error
    start = len(MAGIC) + N_DIGEST
    if data[: len(MAGIC)] != MAGIC:
        raise DapqError(f"{path} is no session of this version of dapq-edge")
    if data[len(MAGIC) : start] != hashlib.sha256(data[start:]).digest():
        raise DapqError(f"{path} is damaged: its checksum is wrong")
    try:
        with np.load(io.BytesIO(data[start:]), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, zipfile.BadZipFile, KeyError) as error:
        raise DapqError(f"{path} is damaged: {error}") from error
