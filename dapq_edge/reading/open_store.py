"""A folder to the store of a model."""

import json
from pathlib import Path

from .._version import LLAMA_CPP_COMMIT, PATCH_VERSION
from ..eviction.heads import model_hash
from ..llamacpp.model import Model
from ..store.catalog import Catalog
from ..store.windows import WindowStore

# bytes of all files of a store, at most
STORE_SIZE = 8 * 2**30


def open_store(model: Model, folder: str | Path, n_max: int = STORE_SIZE) -> WindowStore:
    """Return what `model` has read and may use again, in a folder that other models and processes may share.

    Args:
        model: An opened model.
        folder: Made if it is not there.
        n_max: Bytes of all files in it, at most.

    Raises `DapqError` if the folder cannot be used.
    """
    files = [_file_key(path) for path in model.files]
    build = LLAMA_CPP_COMMIT, PATCH_VERSION

    def identity() -> str:
        return json.dumps([build, files, model.cache_key])

    return WindowStore(Catalog(Path(folder).expanduser(), n_max), identity, model.path.name)


def _file_key(path: Path) -> tuple[str, int]:
    # the hash is of blocks, and weights between them may differ
    return model_hash(path), path.stat().st_mtime_ns
