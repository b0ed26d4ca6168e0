"""Sessions: the sequence of a `Llama`, evicted or not, and its conversation, in one file."""

from pathlib import Path
from typing import Any

from .._version import PATCH_VERSION
from ..cache.state import SequenceState
from ..counts import count
from ..errors import DapqError
from ..eviction.heads import model_hash
from ..llama import Llama


def save_session(llama: Llama, path: Path, conversation: Any) -> None:
    """Save the sequence of `llama`: its tokens, which of them each head keeps, and their K and V.

    Args:
        llama: Not one for embeddings or images.
        path: A file that is there stays whole until the new one is.
        conversation: What else belongs to it, as JSON.

    Raises `DapqError`.
    """
    header = {"model": model_hash(Path(llama.model_path)), "patch": PATCH_VERSION, "types": llama.cache_types}
    llama.kv_cache.state().save(path, header | {"conversation": conversation})


def load_session(llama: Llama, path: Path) -> Any:
    """Put a sequence that was saved into `llama`; returns its conversation.

    Raises `DapqError`, and leaves `llama` as it was, if the file cannot be read, is no session or damaged, or is of
    another model, patch or cache type; `llama` is empty if llama.cpp refuses the cells.
    """
    state, header = SequenceState.load(path)
    if not {"patch", "model", "types", "conversation"} <= header.keys():
        raise DapqError(f"{path} is a saved sequence, and no session")
    if header["patch"] != PATCH_VERSION:
        raise DapqError(f"{path} was saved with patch version {header['patch']}, not {PATCH_VERSION}")
    if header["model"] != model_hash(Path(llama.model_path)):
        raise DapqError(f"{path} is a session of another model")
    if tuple(header["types"]) != llama.cache_types:
        type_k, type_v = header["types"]
        raise DapqError(f"{path} was saved with `type_k={type_k}` `type_v={type_v}`")
    llama.extend(state.sequence.n_tokens + 1)
    if state.sequence.n_cells > llama.usage.n_cells:
        raise DapqError(f"{path} has {count(state.sequence.n_cells, 'cell')}: raise `kv_budget` or `n_ctx`")
    try:
        llama.kv_cache.restore(state)
    except DapqError as error:
        llama.reset()
        raise DapqError(f"{path}: {error}") from error
    return header["conversation"]
