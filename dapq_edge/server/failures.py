"""Status and body of the response to an exception."""

import logging
import traceback
from typing import Any

import jinja2

from ..errors import AbortedError, DapqError, TooLongError, UsageError
from .limits import error_body
from .worker import BusyError, RequestTimeoutError, StoppedError

LOG = logging.getLogger("dapq_edge.server")

# what llama-cpp-python and templates raise for arguments that they cannot use
INVALID = (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, jinja2.TemplateError)

STATUSES = {BusyError: 429, StoppedError: 503, RequestTimeoutError: 504, AbortedError: 499, UsageError: 400}
TYPES = {429: "rate_limit_exceeded", 503: "server_error", 504: "timeout"}

OURS = __name__.partition(".")[0]


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return status and body; what is no fault of the request is logged."""
    text = " ".join(str(error).split()).encode("utf-8", "replace").decode()
    if isinstance(error, TooLongError):
        return 400, error_body(text, code="context_length_exceeded", param=error.param)
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            return status, error_body(text, TYPES.get(status, "invalid_request_error"), param=error.param)
    if isinstance(error, DapqError):
        return 500, error_body(text, "server_error")
    if isinstance(error, INVALID) and is_of_request(error):
        LOG.warning("refused: %r", error)
        return 400, error_body(f"the model cannot use the request: {text or type(error).__name__}")
    LOG.error("failed", exc_info=error)
    return 500, error_body("the server failed, see its log", "server_error")


def is_of_request(error: Exception) -> bool:
    """Return whether llama-cpp-python or the chat template raised it, and not our own code, which they may call."""
    if isinstance(error, jinja2.TemplateError):
        return True
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in ("llama_cpp", "jinja2") or frame.f_code.co_filename == "<template>":
            return True
        if package == OURS:
            return False
    return False
