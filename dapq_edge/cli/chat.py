"""`dapq-edge chat`: a conversation in the terminal."""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from .. import native
from ..chat import Chat
from ..documents import read_document
from ..errors import AbortedError, DapqError, UsageError
from ..memory import MIB
from ..session import load_session, save_session
from ..shading import to_terminal
from .model import check_eviction_options, check_model_options, load_llama, progress_bar

HELP = """\
/doc FILE    add a document to the next question
/save FILE   save the conversation
/load FILE   go on with a saved one
/stats       what it takes, and what was done
/kept        the text, shaded by how many heads keep each token
/reset       forget everything
/exit        leave (also Ctrl-D)
Ctrl-C stops an answer. A line that ends with \\ goes on in the next one."""

PROMPT = "> "


def run(args: argparse.Namespace) -> int:
    check_eviction_options(args)
    check_model_options(args)
    with native.captured_log():
        return _Terminal(args).run()


class _Terminal:
    """Reads lines, and prints what `Chat` answers."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.console = Console(stderr=True)
        self.is_stopped = False
        documents = {path: read_document(path) for path in args.doc}
        self.llama = load_llama(args, self.console)
        self.chat = Chat(self.llama, system=args.system_prompt, n_predict=args.predict, temperature=args.temp)
        self.session = Path(args.session) if args.session else None
        if self.session and self.session.exists():
            self._load(str(self.session))
        for path, document in documents.items():
            # the same command goes on with a session
            if self.chat.has_document(document):
                self._say(f"{path} is in the conversation")
            else:
                self.chat.add_document(document)

    def run(self) -> int:
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                # line editing and history for input()
                import readline  # noqa: F401
            self._say("/help lists the commands")
        while True:
            try:
                line = self._read_line()
            except EOFError:
                break
            except KeyboardInterrupt:
                self._say("\n/exit or Ctrl-D leaves")
                continue
            try:
                if line == "/exit":
                    break
                self._answer(line) if not line.startswith("/") else self._command(line)
            except DapqError as error:
                if not sys.stdin.isatty():
                    raise
                self._say(f"dapq-edge: {error}")
        return 0

    def _read_line(self) -> str:
        prompt = PROMPT if sys.stdin.isatty() else ""
        line = input(prompt)
        while line.endswith("\\"):
            line = line[:-1] + "\n" + input(prompt)
        return line.strip()

    def _say(self, text: str) -> None:
        self.console.print(text, style="dim", highlight=False, soft_wrap=True, markup=False)

    def _answer(self, line: str) -> None:
        if not line:
            return
        start, first = time.perf_counter(), None
        with self._stopped_by_ctrl_c(), contextlib.ExitStack() as bar:
            self._show_progress(bar)
            try:
                for piece in self.chat.ask(line):
                    first = first or time.perf_counter()
                    bar.close()
                    print(piece, end="", flush=True)
                    if self.is_stopped:
                        break
            except AbortedError:
                self._say("stopped")
                return
        print(flush=True)
        if self.is_stopped:
            self._say("stopped")
        if self.args.verbose:
            self._say(f"{(first or start) - start:.1f} s to first token; {self._figures()}")
        if self.session:
            self._save(str(self.session))

    @contextlib.contextmanager
    def _stopped_by_ctrl_c(self) -> Iterator[None]:
        def stop(*_: object) -> None:
            self.is_stopped = True

        self.is_stopped = False
        self.llama.set_abort(lambda: self.is_stopped)
        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self.llama.set_abort(None)

    def _show_progress(self, stack: contextlib.ExitStack) -> None:
        bar = stack.enter_context(progress_bar(self.console))
        task = bar.add_task("reading")
        self.llama.progress = lambda done, total: bar.update(task, completed=done, total=total)
        stack.callback(setattr, self.llama, "progress", lambda done, total: None)

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        commands = {
            "/help": lambda _: self._say(HELP),
            "/doc": self._add_document,
            "/save": self._save,
            "/load": self._load,
            "/stats": lambda _: self._say(self._figures()),
            "/kept": lambda _: Console().print(to_terminal(self.llama.kept()), highlight=False),
            "/reset": lambda _: self.chat.reset(),
        }
        if name not in commands:
            raise UsageError(f"no command {name}: /help lists them")
        if name in ("/doc", "/save", "/load") and not rest.strip():
            raise UsageError(f"{name} needs a file")
        commands[name](rest.strip())

    def _add_document(self, path: str) -> None:
        n_tokens = self.chat.add_document(read_document(path))
        self._say(f"{path}: {n_tokens:,} tokens, read with the next question")

    def _save(self, path: str) -> None:
        save_session(self.llama, Path(path), self.chat.state())

    def _load(self, path: str) -> None:
        start = time.perf_counter()
        self.chat.set_state(load_session(self.llama, Path(path)))
        self._say(
            f"{path}: {len(self.chat.turns)} turns, {self.llama.n_tokens:,} tokens, {time.perf_counter() - start:.1f} s"
        )

    def _figures(self) -> str:
        usage = self.llama.usage
        parts = [
            f"{usage.n_tokens:,} tokens in {usage.n_cells_used:,} of {usage.n_cells:,} cells",
            f"KV {usage.bytes_used / MIB:.1f} of {usage.bytes_allocated / MIB:.1f} MiB",
            f"{usage.n_evictions} evictions, {usage.n_rereads} times re-read",
        ]
        if usage.held is not None:
            parts.append(f"the kept cells held {usage.held:.0%} of the attention")
        return "; ".join(parts)
