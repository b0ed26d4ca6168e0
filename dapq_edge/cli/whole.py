"""Answers a question from all of a document, window by window."""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from rich.console import Console

from ..chat.joined import Item
from ..chat.whole import WholeQuestion
from ..control import Control
from ..counts import count
from ..documents.document import Document
from ..eviction.policies import Policy
from ..planning.ram import MIB
from ..prompt import Prompt
from ..prompt.chat_template import chat_prompt
from ..prompt.extent import Extent
from ..reading.engine import Engine
from ..reading.plan import ReadMode
from ..reading.stats import store_note
from .ask import Options
from .running import find_budget, progress_bar, read_prompt, say, shown_in, warn
from .writing import Written, write_answer

# what to say if all windows are to be asked, and need not be
FITS = "the document fits the budget, and is read at once"


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
    rounds: int
    whole_s: float
    ttft_s: float
    decode_tps: float | None
    rss_mib: float

    def line(self) -> str:
        """Return it for people."""
        asked = f"asked {self.windows_read:,} of {count(self.windows, 'window')}"
        parts = [
            f"{self.reading}: {count(self.prompt_tokens, 'token')}, {asked}",
            store_note(self.windows_stored),
            count(self.count, "different item"),
            f"rounds over them: {self.rounds:,}" if self.rounds else None,
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
        self.question = WholeQuestion(engine.model, document, options.asked)
        # for what is written over the parts
        self.n_evaluated = 0
        self.start = time.perf_counter()

    def run(self) -> int:
        """Ask all windows, and answer from what they said; returns the exit code."""
        question = self.question
        if self.options.whole == "auto":
            say([auto_note(question)], self.console)
        try:
            self._ask_windows()
            written = self._joined_answer() if question.is_joined else self._answer_from_parts()
        except KeyboardInterrupt:
            # a list is printed already
            self._print(self._result(self._joined_answer(), is_partial=True))
            if self.engine.store:
                say(["stopped: the same command goes on where it was"], self.console)
            raise
        say([*self.engine.take_faults(), *question.notes()], self.console)
        if question.extent == Extent.COUNT and not self.options.json:
            print(written.text, flush=True)
        self._print(self._result(written, question.is_partial))
        return 0

    def _ask_windows(self) -> None:
        with progress_bar(self.console) as bar:
            for new in self.question.ask(self.engine, Control(shown_in(bar, "reading"))):
                if new and not self.options.json:
                    # what is printed would go into the bar
                    bar.stop()
                    self._show(new)
                    bar.start()

    def _show(self, items: list[Item]) -> None:
        for item in items:
            show_item(item, self.question, self.console)

    def _joined_answer(self) -> Written:
        return Written(self.question.joined, time.perf_counter(), None)

    def _answer_from_parts(self) -> Written:
        """Have the model write an answer over the items; it has no sources but them, as they are no quotes."""
        options, sampling = self.options, self.options.sampling
        read = read_prompt(
            self.engine,
            self._prompt(self._parts()),
            self.policy,
            options.reading,
            self.console,
            n_predict=sampling.predict,
            ctx_size=options.model.ctx_size,
        )
        self.n_evaluated += read.tokens_evaluated
        warn(read, self.console)
        self.question.is_skimmed = read.mode == ReadMode.SKIM
        return write_answer(self.engine, read.n_predict, sampling.temp, not options.json)

    def _parts(self) -> str:
        """Return what the answer is written over."""
        options = self.options
        budget = find_budget(options.reading, self.engine, options.model.ctx_size)

        def fits(text: str) -> bool:
            return self.engine.fits(self._prompt(text), self.policy, budget, one_shot=options.reading.one_shot)

        with progress_bar(self.console) as bar:
            return self.question.parts(self.engine, fits, Control(shown_in(bar, "joining")))

    def _prompt(self, parts: str) -> Prompt:
        return chat_prompt(self.engine.model, parts, self.options.asked, self.options.answer_prefix)

    def _print(self, result: WholeResult) -> None:
        if self.options.json:
            print(json.dumps(asdict(result), ensure_ascii=False), flush=True)
        else:
            self.console.print(result.line(), style="dim", highlight=False, soft_wrap=True)

    def _result(self, written: Written, is_partial: bool) -> WholeResult:
        question = self.question
        return WholeResult(
            answer=written.text,
            coverage=question.coverage().fields(),
            not_found=question.has_nothing,
            partial=is_partial,
            notes=self.notes,
            policy=self.policy.name,
            reading="whole",
            prompt_tokens=len(question.prompt),
            tokens_evaluated=question.n_evaluated + self.n_evaluated,
            whole_s=round(time.perf_counter() - self.start, 3),
            ttft_s=round(written.first - self.start, 3),
            decode_tps=written.tps,
            rss_mib=round(psutil.Process().memory_info().rss / MIB, 1),
            **question.fields(),
        )


def auto_note(question: WholeQuestion) -> str:
    """Return what to say if all windows are asked, and nobody said so."""
    what = f"each of its {count(question.n_windows, 'window')} is asked; --whole off answers from what is most relevant"
    return f"this asks for all of the document: {what}"


def show_item(item: Item, question: WholeQuestion, console: Console) -> None:
    """Print an item: a list is the answer, and anything else only what the answer is made from."""
    line = item.line(question.has_files)
    if question.extent == Extent.LIST:
        print(line, flush=True)
    else:
        console.print(line, style="dim", highlight=False, soft_wrap=True, markup=False)
