"""Files that are read: of a path, of stdin, or of bytes that came over the network."""

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import DapqError
from .kinds import HEAD

STDIN = "-"
MIB = 2**20

# what can be unpacked and parsed beside a model
MAX_BYTES = 100 * MIB


@dataclass(frozen=True)
class Source:
    """A file that can be read from any place.

    Attributes:
        name: For people.
        file: The file.
        n_bytes: Its size.
        charset: What its sender says; empty if nobody does.
    """

    name: str
    file: BinaryIO
    n_bytes: int
    charset: str = ""

    def head(self) -> bytes:
        """Return its first bytes."""
        self.file.seek(0)
        return self.file.read(HEAD)

    def tail(self) -> bytes:
        """Return its last bytes."""
        self.file.seek(max(0, self.n_bytes - HEAD))
        return self.file.read()

    def read(self) -> bytes:
        """Return all of it."""
        self.file.seek(0)
        return self.file.read()


@contextlib.contextmanager
def opened(path: str) -> Iterator[Source]:
    """Yield a file, or what comes from stdin if `path` is "-". Raises `DapqError` if it cannot be read, or is huge."""
    if path == STDIN:
        with _copied(sys.stdin.buffer, "stdin") as source:
            yield source
        return
    name = printable(path)
    try:
        # a pipe that nobody writes to is empty
        file = open(path, "rb", opener=lambda place, flags: os.open(place, flags | os.O_NONBLOCK))  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise DapqError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    with file:
        os.set_blocking(file.fileno(), True)
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            yield Source(name, file, _checked(os.fstat(file.fileno()).st_size, name))
            return
        with _copied(file, name) as source:
            yield source


@contextlib.contextmanager
def uploaded(data: bytes, name: str, charset: str = "") -> Iterator[Source]:
    """Yield bytes as a file. Raises `DapqError` if they are too many."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield Source(printable(name), file, _checked(len(data), printable(name)), charset)


def printable(name: str) -> str:
    """Return a name, or what was typed, so that it fits into a line of any terminal."""
    return "".join(char if char.isprintable() else "?" for char in name)


@contextlib.contextmanager
def _copied(stream: BinaryIO, name: str) -> Iterator[Source]:
    """A pipe has no end that is known, and cannot be read twice."""
    try:
        data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise DapqError(f"cannot read {name}: {error.strerror}") from error
    with uploaded(data, name) as source:
        yield source


def _checked(n_bytes: int, name: str) -> int:
    if n_bytes > MAX_BYTES:
        raise DapqError(f"{name} has more than {MAX_BYTES // MIB} MiB: split it")
    return n_bytes
