"""Errors whose message is one clear line for the user."""


class DapqError(Exception):
    """Something from outside is wrong: a model, a document, the machine. The message says what, and what to do."""


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


class TooLongError(DapqError, ValueError):
    """A prompt is longer than the context, or than what the model was trained for."""
