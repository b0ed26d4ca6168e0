"""Exit codes."""

from ..errors import DapqError, UsageError

ERROR = 1
USAGE = 2
INTERRUPTED = 130


def code_of(error: DapqError) -> int:
    """Return the exit code of a command that ends with an error."""
    return USAGE if isinstance(error, UsageError) else ERROR
