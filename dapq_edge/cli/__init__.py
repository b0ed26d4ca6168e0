"""The command line: `dapq-edge`."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

from ..errors import DapqError
from . import exits
from .names import message_of
from .parser import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Errors are one line on stderr; the exit code is 2 for usage, 130 for Ctrl-C, else 1."""
    sys.unraisablehook = _repeat_interrupt
    try:
        parser = build_parser()
        with contextlib.suppress(ImportError):
            # what the shell asks for when TAB is pressed
            import argcomplete

            argcomplete.autocomplete(parser)
        args = parser.parse_args(argv)
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except DapqError as error:
        return _fail(message_of(error), exits.code_of(error))
    except MemoryError:
        return _fail("not enough memory: lower --kv-budget, -c or -b", exits.ERROR)
    except KeyboardInterrupt:
        return _fail("interrupted", exits.INTERRUPTED)
    except OSError as error:
        # the reader of our output is gone, or its disk full; keep Python from failing again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.ERROR if isinstance(error, BrokenPipeError) else _fail(error, exits.ERROR)


def _repeat_interrupt(unraisable: "sys.UnraisableHookArgs") -> None:
    """Ctrl-C in a callback of llama.cpp, which Python cannot raise there, is repeated a moment later."""
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.01, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
    else:
        sys.__unraisablehook__(unraisable)


def _fail(reason: object, code: int) -> int:
    print(f"dapq-edge: {reason}", file=sys.stderr)
    return code
