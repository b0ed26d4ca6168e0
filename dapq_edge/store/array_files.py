"""Files of arrays, with a checksum of their bytes and of what they are."""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

# our files: other programs may have theirs in the same folder
PART = re.compile(r"[0-9a-f]{32}\.tmp")
FILE = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}\.kv")


def write(folder: Path, path_of: Callable[[str], Path], manifest: str, arrays: Arrays) -> str:
    """Write a file as a whole, which only its owner can read, and return its checksum. Raises OSError, MemoryError.

    Args:
        folder: Where it is.
        path_of: Gives its path for the checksum.
        manifest: Types and shapes of the arrays, JSON.
        arrays: They.
    """
    part = folder / f"{uuid.uuid4().hex}.tmp"
    digest = _digest(manifest)
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for array in arrays.values():
                data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                digest.update(data)
                file.write(data)
        os.replace(part, path_of(digest.hexdigest()))
    except BaseException:
        unlink(part)
        raise
    return digest.hexdigest()


def read(path: Path, sha256: str, manifest: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a file. Raises ValueError if they are not what was written, and OSError."""
    # not mapped: a disk that fails while llama.cpp copies would end the process
    data = np.fromfile(path, dtype=np.uint8)
    if _digest(manifest, data.data).hexdigest() != sha256:
        raise ValueError("its checksum is wrong")
    arrays = {}
    for name, dtype, shape, place in _places(manifest):
        part = data[place.start : place.stop]
        # behind other arrays, one may begin at any byte
        arrays[name] = (part if place.start % 8 == 0 else part.copy()).view(dtype).reshape(shape)
    return arrays


def read_one(path: Path, manifest: str, name: str) -> npt.NDArray[Any] | None:
    """Return one array of a file, or None if it cannot be read; its checksum is not looked at."""
    for other, dtype, shape, place in _places(manifest):
        if other == name:
            with suppress(OSError, ValueError):
                return np.fromfile(path, dtype=dtype, count=int(np.prod(shape)), offset=place.start).reshape(shape)
    return None


def _places(manifest: str) -> Iterator[tuple[str, np.dtype[Any], list[int], range]]:
    """Give the name, the type, the shape and the bytes of each array."""
    start = 0
    for name, (dtype, shape) in json.loads(manifest).items():
        stop = start + int(np.dtype(dtype).itemsize * np.prod(shape))
        yield name, np.dtype(dtype), shape, range(start, stop)
        start = stop


def _digest(manifest: str, data: bytes | memoryview = b"") -> "hashlib._Hash":
    digest = hashlib.sha256(manifest.encode())
    digest.update(data)
    return digest


def unlink(path: Path) -> bool:
    """Remove a file; returns whether it is gone."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        return True
    return False
