"""Errors whose message is one clear line for the user."""

import re
from collections.abc import Callable


class DapqError(Exception):
    """Something from outside is wrong: a model, a document, the machine. The message says what, and what to do.

    A parameter in it is written in backticks, as `n_ctx`, or as `n_ctx=512` with a value, so that the command line can
    name its option instead.

    Args:
        message: One line.
        param: The parameter that is wrong; the message goes on after its name.
    """

    def __init__(self, message: str = "", *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    def say(self, name: Callable[[str], str], equals: str) -> str:
        """Return the message with each parameter as `name` calls it, and `equals` before a value."""
        message = str(self.args[0]) if self.args else ""
        text = f"`{self.param}` {message}" if self.param else message
        return re.sub(r"`([a-z_]+)(=?)(\w*)`", lambda part: name(part[1]) + (equals if part[2] else "") + part[3], text)

    def __str__(self) -> str:
        return self.say(str, "=")


class UsageError(DapqError, ValueError):
    """An argument is wrong, whatever the model or the document is."""


class StockBuildError(DapqError):
    """llama-cpp-python was built without our patches, or with others."""


class UnsupportedModelError(DapqError):
    """The memory of the model has no cells that can be probed and evicted."""


class NoFreeCellsError(DapqError):
    """The context has no free cells for the tokens."""


class ModelError(DapqError, ValueError):
    """The file is no model, or none that llama.cpp can load."""


class AbortedError(DapqError):
    """The caller asked to stop."""


class NotReadError(DapqError):
    """A document was only looked at, as the caller wanted."""


class TooLongError(DapqError, ValueError):
    """A prompt is longer than the context, or than what the model was trained for."""
