"""Files that are whole at any moment."""

import contextlib
import os
import tempfile
from pathlib import Path

from .errors import DapqError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file; one that is there stays whole until the new one is, whatever happens. Raises `DapqError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(file.name)
                raise
    except OSError as error:
        raise DapqError(f"cannot write {path}: {error.strerror or error}") from error
