"""A conversation in the terminal."""

import contextlib
import difflib
import re
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from platformdirs import user_state_path
from rich.console import Console
from rich.progress import Progress as ProgressBar

from ..chat.asking import NOTHING_YET, Found
from ..chat.conversation import Chat
from ..chat.idle import Idle
from ..chat.library import Library
from ..chat.session import load_session, save_session
from ..chat.sources import find_coverage, find_sources
from ..chat.whole import WholeMode, WholeQuestion
from ..control import UNCONTROLLED, Control, Progress
from ..counts import count
from ..documents.document import Document, join
from ..errors import AbortedError, DapqError, UsageError
from ..eviction.heads import HeadProfile
from ..llamacpp.log import captured_log
from ..planning.ram import MIB
from ..reading.stats import Usage, guess_note, part_note, skip_note, store_note
from ..render.shading import to_terminal
from . import exits
from .chat import Options
from .citing import say_sources
from .messages import PipedLines, Terminal, is_terminal
from .names import message_of
from .printing import show
from .running import check_budget, check_model, cut_note, open_llama, progress_bar, read_all, say, shown_in, warn
from .whole import FITS, auto_note, show_item

HELP = """\
/doc FILE    add a document to the next question, or all of a folder or a pattern
/save FILE   save the conversation
/load FILE   go on with a saved one
/stats       what it takes, and what was done
/whole TEXT  ask this of each window of the documents, and join the answers
/sources     where the answer stands in the documents, and what was read of them
/kept        the text, shaded by how many heads keep each token
/reset       forget everything
/exit        leave (also Ctrl-D)
Ctrl-C stops an answer. TAB completes commands and files. A line that ends with \\, or with Alt-Enter, goes on in the
next one; a pasted text is one message. A word like /this that is no command is refused; a
message may begin with a space."""

# commands behind which a file is
WITH_FILE = "/doc", "/save", "/load"

# likeness of a word to a command from which on it is taken for one that was mistyped, 0 to 1
MIN_NEAR = 0.75

# what looks like a command, and no path
COMMAND = re.compile(r"/[a-z]+")

# characters of a system message that are shown
N_SHOWN = 60


def talk(options: Options) -> int:
    """Talk until the end of the input; returns the exit code."""
    check_budget(options.eviction)
    check_model(options.model)
    with captured_log():
        terminal = _Terminal(options)
        try:
            return terminal.run()
        finally:
            terminal.close()


class _Terminal:
    """Reads lines, and prints what `Chat` answers."""

    def __init__(self, options: Options) -> None:
        self.options, sampling = options, options.sampling
        self.console = Console(stderr=True)
        self.is_terminal = is_terminal(is_piped="-" in options.documents.doc)
        self.is_stopped = self.is_left = False
        documents = read_all(options.documents.doc, options.documents, self.console)
        self.llama = open_llama(options.model, options.eviction, options.store, self.console, seed=sampling.seed)
        self.chat = Chat(
            self.llama, system=options.system_prompt, n_predict=sampling.predict, temperature=sampling.temp
        )
        self.library = Library()
        self.idle = Idle(self.llama)
        self.session = Path(options.session) if options.session else None
        if self.session and self.session.exists():
            self._load(str(self.session))
        for document in documents:
            # the same command goes on with a session
            self.library.add(document)
            if self.chat.has_document(document.text):
                self._say(f"{document.name} is in the conversation")
            else:
                self.chat.add_document(document.text)

    def run(self) -> int:
        """Answer until the end; returns the exit code: that of the first error, if messages come from a pipe."""
        messages, code = self._messages(), 0
        if self.is_terminal:
            self._say("/help lists the commands")
        while not self.is_left:
            try:
                self._take(self._next(messages))
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self.is_terminal:
                    raise
                self._say("\n/exit or Ctrl-D leaves")
            except DapqError as error:
                code = code or exits.code_of(error)
                say([message_of(error)], self.console)
        return 0 if self.is_terminal else code

    def _next(self, messages: PipedLines | Terminal) -> str:
        """Return the next message; until it is there, documents are read."""
        self.idle.start(self.chat.read_ahead)
        try:
            return messages.read()
        finally:
            ahead = self.idle.stop()
            say(ahead.faults if ahead else [], self.console)

    def close(self) -> None:
        self.llama.close()
        say(self.llama.engine.take_faults(), self.console)

    def _messages(self) -> PipedLines | Terminal:
        if not self.is_terminal:
            return PipedLines()
        is_kept = not self.options.store.no_store
        history = user_state_path("dapq-edge") / "chat_history" if is_kept else None
        return Terminal(list(self._commands), WITH_FILE, history)

    def _take(self, text: str) -> None:
        """Run a command, or answer a message."""
        name, rest = (*text.split(None, 1), "", "")[:2]
        if text.count("\n") or not text.startswith("/"):
            self._answer(text.strip())
        elif name in self._commands:
            self._command(name, rest.strip())
        elif near := difflib.get_close_matches(name, self._commands, 1, MIN_NEAR):
            raise UsageError(f"no command {name}: {near[0]} is one; a message may begin with a space")
        elif COMMAND.fullmatch(name):
            raise UsageError(f"no command {name}: /help lists them; a message may begin with a space")
        else:
            self._answer(text.strip())

    def _say(self, text: str) -> None:
        self.console.print(text, style="dim", highlight=False, soft_wrap=True, markup=False)

    def _answer(self, line: str, mode: WholeMode | None = None) -> None:
        """Answer a message; `mode` is that of --whole, if there is none."""
        if not line:
            return
        mode, start = mode or WholeMode(self.options.whole), time.perf_counter()
        documents = self._documents(line)
        try:
            first = self._show_answer(line, mode, join(documents) if documents else None)
        except AbortedError:
            self._say_stopped()
            return
        whole = self.chat.whole
        if self.is_stopped:
            self._say_stopped()
        elif self.chat.is_cut:
            self._say(cut_note(self.chat.n_predict))
        if self.chat.n_forgotten:
            self._say(f"forgot the oldest turns ({self.chat.n_forgotten:,}), which have no room: raise -c")
        if whole:
            say([*self.llama.engine.take_faults(), *whole.notes()], self.console)
        else:
            part = part_note(line, self.llama.engine.sequence.n_skipped > 0)
            say([f"{part}: /whole asks all"] if part else [], self.console)
            say([FITS] if mode == WholeMode.ON and documents else [], self.console)
        warn(self.llama.usage, self.console)
        if self.options.verbose:
            self._say(f"{(first or start) - start:.1f} s to first token; {self._figures()}")
        if self.session:
            self._save(str(self.session))

    def _documents(self, line: str) -> list[Document]:
        """Return the documents that the conversation has with a new message."""
        contents = [turn.message for turn in self.chat.turns]
        return self.library.documents_in([*contents, "\n\n".join([*self.chat.documents, line])])

    def _show_answer(self, line: str, mode: WholeMode, document: Document | None) -> float | None:
        """Print an answer as it comes; return when it began. Raises `AbortedError` if it was stopped before that."""
        first, is_text = None, True
        with self._stopped_by_ctrl_c(), progress_bar(self.console) as bar:
            self.llama.control = Control(_progress(bar), lambda: self.is_stopped)
            try:
                for piece in self.chat.ask(line, mode, document):
                    if first is None and piece != NOTHING_YET:
                        first = time.perf_counter()
                    # what is printed would go into the bar
                    bar.stop()
                    if isinstance(piece, Found):
                        self._show_found(piece, mode)
                        bar.start()
                    else:
                        print(piece, end="", flush=True)
                    is_text = isinstance(piece, str)
                    if self.is_stopped:
                        break
            except DapqError:
                if first is not None and is_text:
                    # what is said next does not belong to the answer
                    print(flush=True)
                raise
        if is_text:
            print(flush=True)
        return first

    def _show_found(self, found: Found, mode: WholeMode) -> None:
        whole = self.chat.whole
        assert whole is not None
        for item in found.items:
            show_item(item, whole, self.console)
        if found.text and not found.items:
            # a count
            print(found.text, flush=True)
        if found == NOTHING_YET and mode == WholeMode.AUTO:
            say([auto_note(whole)], self.console)

    def _say_stopped(self) -> None:
        goes_on = self.chat.whole is not None and self.llama.engine.store
        self._say("stopped: ask it again, and it goes on where it was" if goes_on else "stopped")

    @contextlib.contextmanager
    def _stopped_by_ctrl_c(self) -> Iterator[None]:
        """Stop the model, not the program, when Ctrl-C is pressed."""

        def stop(*_: object) -> None:
            self.is_stopped = True

        self.is_stopped = False
        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self.llama.control = UNCONTROLLED

    @property
    def _commands(self) -> dict[str, Callable[[str], None]]:
        return {
            "/help": lambda _: self._say(HELP),
            "/doc": self._add_document,
            "/save": self._save_as,
            "/load": self._load,
            "/whole": self._ask_whole,
            "/stats": lambda _: self._say(self._figures()),
            "/sources": lambda _: self._show_sources(),
            "/kept": lambda _: show(to_terminal(self.llama.kept())),
            "/reset": lambda _: self.chat.reset(),
            "/exit": lambda _: self._leave(),
        }

    def _command(self, name: str, rest: str) -> None:
        if name in WITH_FILE and not rest:
            raise UsageError(f"{name} needs a file")
        self._commands[name](rest)

    def _leave(self) -> None:
        self.is_left = True

    def _add_document(self, path: str) -> None:
        for document in read_all([path], self.options.documents, self.console):
            self.library.add(document)
            size = count(self.chat.add_document(document.text), "token")
            self._say(f"{document.name}: {size}, read while you type and with the next question")

    def _ask_whole(self, question: str) -> None:
        if not question:
            raise UsageError("/whole needs a question")
        if not self._documents(question):
            raise UsageError("/whole asks all of the documents, and there are none: /doc adds one")
        self._answer(question, WholeMode.ON)

    def _show_sources(self) -> None:
        if self.chat.whole:
            self._show_parts(self.chat.whole)
            return
        quoted = self.library.quoted([turn.message for turn in self.chat.turns])
        if quoted is None or not self.chat.turns[-1].answer:
            raise UsageError("no answer about a document was given yet")
        engine = self.llama.engine
        sources = find_sources(engine, quoted.document)
        say_sources(sources, find_coverage(engine, quoted.document), self.console)
        if not sources:
            self._say("the answer was not read from a passage of the documents, or that cannot be seen any more")

    def _show_parts(self, whole: WholeQuestion) -> None:
        """Show what the windows of the documents said; it is no quote."""
        for item in whole.items:
            self.console.print(item.line(whole.has_files), highlight=False, soft_wrap=True, markup=False)
        say([whole.coverage().line], self.console)

    def _save(self, path: str) -> None:
        save_session(self.llama, Path(path), self.chat.state())

    def _save_as(self, path: str) -> None:
        self._save(path)
        self._say(f"{path}: {self._contents()} saved{self._unread_note()}")

    def _load(self, path: str) -> None:
        start = time.perf_counter()
        self.chat.set_state(load_session(self.llama, Path(path)))
        for text in (text for turn in self.chat.turns for text in turn.documents):
            # a session knows no pages
            self.library.add(Document.of("document", [("", text)], ""))
        self._say(f"{path}: {self._contents()}, {time.perf_counter() - start:.1f} s{self._unread_note()}")
        if self.options.system_prompt not in ("", self.chat.system):
            held = textwrap.shorten(self.chat.system, N_SHOWN, placeholder="...")
            self._say(f"its system message holds, not that of -sys: {held or 'none'}")

    def _contents(self) -> str:
        """Return what a session has."""
        n_documents = len(self.chat.documents)
        parts = [count(len(self.chat.turns), "turn"), count(self.llama.n_tokens, "token")]
        if n_documents:
            parts.insert(1, f"{count(n_documents, 'document')} for the next question")
        return ", ".join(parts)

    def _unread_note(self) -> str:
        """Return what to say of a conversation that is not in the cache, as its reading was stopped."""
        is_unread = not self.llama.n_tokens and (self.chat.turns or self.chat.documents)
        return "; what was not read to its end is read with the next question" if is_unread else ""

    def _figures(self) -> str:
        usage = self.llama.usage
        parts = [
            f"{count(usage.n_tokens, 'token')} in {usage.n_cells_used:,} of {count(usage.n_cells, 'cell')}",
            f"KV {usage.bytes_used / MIB:.1f} of {usage.bytes_allocated / MIB:.1f} MiB",
            f"{count(usage.n_evictions, 'eviction')}, {count(usage.n_rereads, 're-read')}",
        ]
        parts += [note for note in _notes(usage, self.llama.heads) if note]
        if usage.attention_kept is not None:
            parts.append(f"the kept cells hold {usage.attention_kept:.0%} of the attention")
        return "; ".join(parts)


def _notes(usage: Usage, heads: HeadProfile | None) -> tuple[str | None, ...]:
    return skip_note(usage.n_windows), store_note(usage.n_stored), guess_note(usage.n_windows, heads)


def _progress(bar: ProgressBar) -> Progress:
    """Return what shows in a bar how far a text is read."""
    report = shown_in(bar, "reading")
    # a token of an answer is no text that is read
    return lambda done, total: report(done, total) if total > 1 else None
