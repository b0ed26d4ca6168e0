"""Answers a question from all of a document, window by window."""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from rich.console import Console

from ..chat.whole import Item, Joined
from ..control import Control
from ..counts import count
from ..documents.document import Document
from ..eviction.policies import Policy
from ..planning.ram import MIB
from ..prompt.chat_template import chat_prompt
from ..prompt.extent import Extent, extent_of
from ..reading.engine import Engine
from ..reading.plan import ReadMode
from ..reading.stats import store_note
from ..reading.whole import N_PART, WindowAnswer, asked_of_each, windows_of
from .ask import Options
from .running import progress_bar, read_prompt, say, shown_in, warn
from .writing import Written, write_answer

# a list is what was joined, and code counts better than a model
JOINED = Extent.LIST, Extent.COUNT


@dataclass(frozen=True)
class WholeResult:
    """The object that `--json` prints."""

    answer: str
    count: int
    left_out: int
    parts: list[dict[str, Any]]
    coverage: dict[str, Any]
    not_found: bool
    partial: bool
    notes: list[str]
    policy: str
    reading: str
    prompt_tokens: int
    tokens_evaluated: int
    windows_read: int
    windows: int
    windows_stored: int
    windows_cut: int
    whole_s: float
    ttft_s: float
    decode_tps: float
    rss_mib: float

    def line(self) -> str:
        """Return it for people."""
        asked = f"asked {self.windows_read:,} of {count(self.windows, 'window')}"
        parts = [
            f"{self.reading}: {count(self.prompt_tokens, 'token')}, {asked}",
            store_note(self.windows_stored),
            count(self.count, "different item"),
            f"{count(self.tokens_evaluated, 'token')} evaluated",
            f"{self.whole_s:.1f} s",
        ]
        return "; ".join(part for part in parts if part)


class WholeAnswer:
    """A question about all of a document.

    Args:
        options: Of the command.
        console: For what is no answer.
        engine: Opened.
        policy: Chooses what is kept of the parts, if they are long.
        document: It.
        notes: What was said about reading it.
    """

    def __init__(
        self, options: Options, console: Console, engine: Engine, policy: Policy, document: Document, notes: list[str]
    ) -> None:
        self.options, self.console, self.engine, self.policy = options, console, engine, policy
        self.document, self.notes = document, notes
        self.extent = extent_of(options.question, asks_for_all=True)
        asked = asked_of_each(options.question, self.extent)
        self.prompt = chat_prompt(engine.model, document.text, asked)
        self.n_windows = len(windows_of(self.prompt, engine.model.n_ctx_train))
        self.joined = Joined(engine.model, self.prompt, document, asked, is_copied=self.extent in JOINED)
        self.answered: list[WindowAnswer] = []
        self.n_evaluated = 0
        self.is_partial = False
        self.start = time.perf_counter()

    def run(self) -> int:
        """Ask all windows, and answer from what they said; returns the exit code."""
        if self.options.whole == "auto":
            what = f"this asks for all of the document: each of its {count(self.n_windows, 'window')} is asked"
            say([f"{what}; --whole off answers from what is most relevant"], self.console)
        try:
            self._ask_windows()
            self._say_what_is_missing()
            is_joined = self.extent in JOINED or not self.joined.items
            written = self._joined_answer() if is_joined else self._answer_from_parts()
        except KeyboardInterrupt:
            # a list is printed already
            self._print(self._result(self._joined_answer(), is_partial=True))
            if self.engine.store:
                say(["stopped: the same command goes on where it was"], self.console)
            raise
        if self.extent == Extent.COUNT and not self.options.json:
            print(written.text, flush=True)
        self._print(self._result(written, self.is_partial))
        return 0

    def _say_what_is_missing(self) -> None:
        say(self.engine.take_faults(), self.console)
        n_cut = sum(answer.is_cut for answer in self.answered)
        self.is_partial = n_cut > 0
        missing = (
            f"{n_cut:,} of {count(self.n_windows, 'window')} had more to say than {N_PART} tokens, which is missing"
        )
        n_left_out = self.joined.n_left_out
        left_out = f"items that are left out, as their words do not stand where they are said to: {n_left_out:,}"
        nothing = "no window of the document has anything about this"
        lines = (n_cut, missing), (n_left_out, left_out), (self.has_nothing, nothing)
        say([line for is_so, line in lines if is_so], self.console)

    @property
    def has_nothing(self) -> bool:
        """True if no window said anything, not even what is left out or cut."""
        return not (self.joined.items or self.joined.n_left_out or any(answer.is_cut for answer in self.answered))

    def _ask_windows(self) -> None:
        with progress_bar(self.console) as bar:
            control = Control(shown_in(bar, "reading"))
            for answer in self.engine.answer_windows(self.prompt, control):
                self.answered.append(answer)
                self.n_evaluated += answer.n_evaluated
                new = self.joined.add(answer)
                if new and not self.options.json:
                    # what is printed would go into the bar
                    bar.stop()
                    self._show(new)
                    bar.start()

    def _show(self, items: list[Item]) -> None:
        """Print items: a list is the answer, and anything else only what the answer is made from."""
        for item in items:
            line = item.line(self.joined.has_files)
            if self.extent == Extent.LIST:
                print(line, flush=True)
            else:
                self.console.print(line, style="dim", highlight=False, soft_wrap=True, markup=False)

    def _joined_answer(self) -> Written:
        """Return what code makes of the items."""
        items = self.joined.items
        lists = "\n".join(item.text for item in items) if self.extent == Extent.LIST else ""
        return Written(str(len(items)) if self.extent == Extent.COUNT else lists, time.perf_counter(), 0.0)

    def _answer_from_parts(self) -> Written:
        """Have the model write an answer over the items; it has no sources but them, as they are no quotes."""
        options, sampling = self.options, self.options.sampling
        found = self.joined.document()
        prompt = chat_prompt(self.engine.model, found.text, options.question, options.answer_prefix)
        read = read_prompt(
            self.engine,
            prompt,
            self.policy,
            options.reading,
            self.console,
            n_predict=sampling.predict,
            ctx_size=options.model.ctx_size,
        )
        self.n_evaluated += read.tokens_evaluated
        warn(read, self.console)
        if read.mode == ReadMode.SKIM:
            self.is_partial = True
            say(["the parts are longer than the budget, so that some are not in the answer"], self.console)
        return write_answer(self.engine, read.n_predict, sampling.temp, not options.json)

    def _print(self, result: WholeResult) -> None:
        if self.options.json:
            print(json.dumps(asdict(result), ensure_ascii=False), flush=True)
        else:
            self.console.print(result.line(), style="dim", highlight=False, soft_wrap=True)

    def _result(self, written: Written, is_partial: bool) -> WholeResult:
        answered, items = self.answered, self.joined.items
        return WholeResult(
            answer=written.text,
            count=len(items),
            left_out=self.joined.n_left_out,
            parts=[item.fields() for item in items],
            coverage=self.joined.coverage().fields(),
            not_found=self.has_nothing,
            partial=is_partial,
            notes=self.notes,
            policy=self.policy.name,
            reading="whole",
            prompt_tokens=len(self.prompt),
            tokens_evaluated=self.n_evaluated,
            windows_read=len(answered),
            windows=self.n_windows,
            windows_stored=sum(answer.is_stored for answer in answered),
            windows_cut=sum(answer.is_cut for answer in answered),
            whole_s=round(time.perf_counter() - self.start, 3),
            ttft_s=round(written.first - self.start, 3),
            decode_tps=written.tps,
            rss_mib=round(psutil.Process().memory_info().rss / MIB, 1),
        )
