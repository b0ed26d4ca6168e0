"""The whole state of a sequence: its ledger, its logits, and its cells as llama.cpp saves them."""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DapqError
from ..files import write_atomically
from .sequence import Sequence

# a file: MAGIC, the SHA-256 of the rest, and the rest as numpy's .npz
MAGIC = b"DAPQSES2"
N_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class SequenceState:
    """Copy of a sequence, that `KVCache.state` makes and `KVCache.restore` takes.

    Attributes:
        sequence: The ledger.
        logits: Of the last token, float32 [n_vocab], or None if they are to be computed again.
        cells: K, V and recurrent states as llama.cpp saves them: uint8 [bytes].
        is_context: Whether `cells` are those of a whole context, and not of one sequence.
    """

    sequence: Sequence
    logits: npt.NDArray[np.float32] | None
    cells: npt.NDArray[np.uint8]
    is_context: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes of the cells."""
        return self.cells.size

    def pack(self, header: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
        """Return it as arrays, with `header` (JSON) beside it."""
        values, arrays = self.sequence.pack()
        everything = {"header": header, "sequence": values, "is_context": self.is_context}
        arrays["json"] = np.frombuffer(json.dumps(everything).encode("utf-8", "surrogatepass"), dtype=np.uint8)
        arrays["cells"] = self.cells
        if self.logits is not None:
            arrays["logits"] = self.logits
        return arrays

    @classmethod
    def unpack(cls, arrays: dict[str, npt.NDArray[Any]]) -> tuple["SequenceState", dict[str, Any]]:
        """Return the state and the header of which `pack` gave these. Raises `DapqError` if they are damaged."""
        try:
            everything = json.loads(bytes(arrays["json"]))
            sequence = Sequence.unpack(everything["sequence"], arrays)
            state = cls(sequence, arrays.get("logits"), arrays["cells"], everything["is_context"])
            return state, everything["header"]
        except (KeyError, ValueError, TypeError) as error:
            raise DapqError(f"a saved sequence is damaged: {error}") from error

    def save(self, path: Path, header: dict[str, Any]) -> None:
        """Write a file with `header` (JSON) beside the state; one that is there stays whole until then.

        Raises `DapqError`.
        """
        file = io.BytesIO()
        np.savez(file, **self.pack(header))  # type: ignore[arg-type]
        data = file.getvalue()
        write_atomically(path, MAGIC + hashlib.sha256(data).digest() + data)

    @classmethod
    def load(cls, path: Path) -> tuple["SequenceState", dict[str, Any]]:
        """Return the state and the header of a file. Raises `DapqError` if it cannot be read, or is damaged."""
        arrays = _read_arrays(path)
        try:
            return cls.unpack(arrays)
        except DapqError as error:
            raise DapqError(f"{path}: {error}") from error


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
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
