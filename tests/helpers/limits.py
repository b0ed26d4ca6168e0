"""Less memory, or smaller files, for a moment."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def limited(kind: int, n_bytes: int) -> Iterator[None]:
    """kind: `resource.RLIMIT_AS` or `resource.RLIMIT_FSIZE`."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))
