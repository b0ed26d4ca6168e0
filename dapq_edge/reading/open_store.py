"""A folder to the store of a model."""

import json
from pathlib import Path

from .._version import LLAMA_CPP_COMMIT, PATCH_VERSION
from ..errors import UsageError
from ..eviction.heads import model_hash
from ..llamacpp.model import Model
from ..store.catalog import Catalog
from ..store.store import Store
from ..store.types import STORE_TYPES

# bytes of all files of a store, at most
STORE_SIZE = 8 * 2**30


def open_store(model: Model, folder: str | Path, n_max: int = STORE_SIZE, store_type: str = STORE_TYPES[0]) -> Store:
    """Return what `model` has read and may use again, in a folder that other models and processes may share.

    Args:
        model: An opened model.
        folder: Made if it is not there.
        n_max: Bytes of all files in it, at most.
        store_type: Of K and V of windows in the files, see `STORE_TYPES`.

    Raises `UsageError` if there is no such type, and `DapqError` if the folder cannot be used.
    """
    check_store_type(store_type)
    files = [_file_key(path) for path in model.files]
    build = LLAMA_CPP_COMMIT, PATCH_VERSION

    def identity() -> str:
        return json.dumps([build, files, model.cache_key])

    return Store(Catalog(Path(folder).expanduser(), n_max), identity, model.path.name, store_type)


def check_store_type(name: str) -> None:
    """Raise `UsageError` if there is no such type."""
    if name not in STORE_TYPES:
        raise UsageError(f"{name}: choose of {', '.join(STORE_TYPES)}", param="store_type")


def _file_key(path: Path) -> tuple[str, int]:
    # the hash is of blocks, and weights between them may differ
    return model_hash(path), path.stat().st_mtime_ns
