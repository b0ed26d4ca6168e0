"""Messages that a user types: in a terminal with history, completion and pasted texts; or the lines of a pipe."""

import contextlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from ..errors import UsageError

PROMPT = "> "

# what is typed before a message goes on in the next line
MORE = "\\"


def is_terminal(*, is_piped: bool) -> bool:
    """Return whether a user types. is_piped: whether stdin was read for a document, and questions come from elsewhere.

    Raises `UsageError` if stdin is gone, and there is no terminal.
    """
    if not is_piped:
        return sys.stdin.isatty()
    if not any(stream.isatty() for stream in (sys.stdout, sys.stderr)):
        raise UsageError("- took stdin, and there is no terminal to ask in", param="doc")
    return True


class PipedLines:
    """Messages from a pipe, one a line; a line that ends with a backslash goes on in the next one."""

    def read(self) -> str:
        """Return the next message. Raises EOFError at the end, and `UsageError` if it is no text."""
        lines = [_line()]
        with contextlib.suppress(EOFError):
            while lines[-1].endswith(MORE):
                lines[-1] = lines[-1][: -len(MORE)]
                lines.append(_line())
        return "\n".join(lines)


def _line() -> str:
    data = sys.stdin.buffer.readline()
    if not data:
        raise EOFError
    try:
        return data.decode(sys.stdin.encoding).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"a line of the input is no text: {error}") from error


class Terminal:
    """Messages from a terminal; a pasted text is one, whatever lines it has.

    Args:
        commands: Names that are completed.
        with_file: Those behind which files are.
        history: Where messages are remembered; None for this process only.
    """

    def __init__(self, commands: Sequence[str], with_file: Sequence[str], history: Path | None) -> None:
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation=" " * len(PROMPT),
            key_bindings=_keys(),
            completer=_Commands(commands, with_file),
            complete_while_typing=False,
            history=_history(history),
            # stdin or stdout can be a pipe
            input=create_input(always_prefer_tty=True),
            output=create_output(always_prefer_tty=True),
        )

    def read(self) -> str:
        """Return the next message. Raises EOFError for Ctrl-D, and KeyboardInterrupt for Ctrl-C."""
        return self._session.prompt()


def _history(path: Path | None) -> History:
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        return FileHistory(path)
    except OSError:
        # a home that cannot be written
        return InMemoryHistory()


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def end(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith(MORE):
            buffer.delete_before_cursor(len(MORE))
            _break(buffer)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def go_on(event: KeyPressEvent) -> None:
        _break(event.current_buffer)

    return keys


def _break(buffer: Buffer) -> None:
    buffer.insert_text("\n")


class _Commands(Completer):
    """Completes commands, and files behind those that take one."""

    def __init__(self, commands: Sequence[str], with_file: Sequence[str]) -> None:
        self._commands, self._with_file = commands, with_file
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        name, space, rest = text.partition(" ")
        if name in self._with_file and space:
            yield from self._paths.get_completions(Document(rest), complete_event)
        elif text.startswith("/") and not space:
            yield from (Completion(command, -len(text)) for command in self._commands if command.startswith(text))
