"""The log of llama.cpp, and what happens when it gives up."""

import ctypes
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import llama_cpp

from . import compat

# llama-cpp-python's own table of the levels is an older one
GGML_LOG_LEVEL_ERROR = 4

# callbacks of the captures that are open, and below them the one that prints
_log_callbacks = [compat.log_callback]


@contextmanager
def captured_log() -> Iterator[deque[str]]:
    """Collect the error lines of llama.cpp instead of printing them; the last one usually names the cause.

    Captures nest: the innermost one gets the lines.
    """
    lines: deque[str] = deque(maxlen=20)

    @llama_cpp.llama_log_callback
    def collect(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if level == GGML_LOG_LEVEL_ERROR:
            lines.append(text.decode("utf-8", "replace").strip())

    _log_callbacks.append(collect)
    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    try:
        yield lines
    finally:
        _log_callbacks.pop()
        llama_cpp.llama_log_set(_log_callbacks[-1], ctypes.c_void_p(0))


def _end(message: bytes) -> None:
    # a progress bar may have hidden the cursor
    show_cursor = b"\x1b[?25h\n" if os.isatty(2) else b""
    os.write(2, show_cursor + b"dapq-edge: llama.cpp stopped: " + message.strip() + b"\n")
    os._exit(1)


# as long as llama.cpp may call it, it must not be freed
_END = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_end)


def end_on_abort() -> None:
    """End the process with one line, not with a core dump, when ggml gives up, as it does if an RPC server is gone."""
    compat.lib.ggml_set_abort_callback(_END)
