"""The header of a GGUF file: what it says of a model, without an object for each word of its vocabulary."""

import re
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from .weights import check_gguf


class Header(gguf.GGUFReader):
    """Header of a file, without an object for each number and string of an array: a vocabulary has many thousands."""

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[npt.NDArray[Any]], list[int], list[gguf.GGUFValueType]]:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)  # type: ignore[no-any-return]
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        start = orig_offs + kind.nbytes + length.nbytes
        types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(int(kind[0]))]
        if types[1] == gguf.GGUFValueType.STRING:
            return self._end_of_strings(start, int(length[0])) - orig_offs, [kind, length], [], types
        values = self._get(start, self.gguf_scalar_to_np[types[1]], int(length[0]))
        return start + values.nbytes - orig_offs, [kind, length, values], [2], types

    def _end_of_strings(self, offset: int, count: int) -> int:
        n_bytes = struct.Struct("<Q")
        for _ in range(count):
            offset += n_bytes.size + n_bytes.unpack_from(self.data, offset)[0]
        return offset

    def number(self, key: str, default: int | None = None) -> int:
        """Raises KeyError if there is none and no default, and ValueError if it is none."""
        field = self.get_field(key)
        if field is None and default is None:
            raise KeyError(key)
        value = default if field is None else field.contents()
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{key} is no natural number")
        return value

    def is_positive(self, key: str) -> bool:
        field = self.get_field(key)
        value = field.contents() if field else 0
        return isinstance(value, int | float) and value > 0

    def per_layer(self, key: str, default: list[int]) -> list[int]:
        """Return as many numbers as `default` has; one number is that of all layers. Raises ValueError."""
        field = self.get_field(key)
        if field is None:
            return default
        if field.types[0] != gguf.GGUFValueType.ARRAY:
            return len(default) * [self.number(key)]
        values = field.contents()
        if len(values) < len(default) or not all(isinstance(value, int) and value >= 0 for value in values):
            raise ValueError(f"{key} does not have a number for each layer")
        return list(values[: len(default)])

    def n_strings(self, key: str) -> int:
        field = self.get_field(key)
        # behind the length of the key, the key, its type, and the type of the array
        return int(field.parts[4][0]) if field else 0


def read_header(path: Path) -> Header:
    """Read the header of one file. Raises `ModelError` if it is missing or broken."""
    try:
        # sums of broken numbers wrap around
        with np.errstate(over="ignore"):
            return Header(check_gguf(path))
    except ModelError:
        raise
    except Exception as error:  # gguf checks nothing, so that anything may be raised
        raise ModelError(f"{path} is broken or truncated") from error


def parts(path: Path) -> list[Path]:
    """Return the files of a split model whose first part `path` is, or of a model in one file."""
    match = re.fullmatch(r"(.+)-00001-of-([0-9]{5})\.gguf", path.name)
    if not match or int(match[2]) == 0:
        return [path]
    return [path.with_name(f"{match[1]}-{i:05}-of-{match[2]}.gguf") for i in range(1, int(match[2]) + 1)]
