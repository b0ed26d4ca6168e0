"""Answers one question about one document."""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from rich.console import Console

from ..chat.sources import find_coverage, find_sources
from ..counts import count
from ..errors import UsageError
from ..eviction.heads import find_profile_file
from ..eviction.policies import Policy, get_policy
from ..llamacpp.log import captured_log
from ..planning.ram import MIB
from ..prompt import Prompt
from ..prompt.chat_template import chat_prompt
from ..prompt.extent import extent_of
from ..reading.engine import Engine
from ..reading.flat import is_flat
from ..reading.plan import ReadMode
from ..reading.stats import absent_note, guess_note, part_note, skip_note, store_note
from .ask import Options
from .citing import say_sources
from .running import (
    check_budget,
    check_model,
    cut_note,
    find_budget,
    open_to_read,
    read_one,
    read_prompt,
    say,
    warn,
)
from .whole import FITS, WholeAnswer
from .writing import write_answer


@dataclass(frozen=True)
class Result:
    """The object that `--json` prints."""

    answer: str
    finish_reason: str
    sources: list[dict[str, Any]]
    coverage: dict[str, Any] | None
    not_found: bool
    partial: bool
    notes: list[str]
    policy: str
    reading: str
    positions: str
    prompt_tokens: int
    tokens_evaluated: int
    windows_read: int
    windows: int
    windows_stored: int
    head_profile: str | None
    chunks: list[dict[str, Any]]
    kv_cells_peak: int
    kv_cells_kept: int
    unpinned_tokens: int
    kv_bytes_peak: int
    kv_bytes_kept: int
    attention_kept: float | None
    evict_s: float
    ttft_s: float
    decode_tps: float | None
    rss_mib: float

    def line(self) -> str:
        """Return it for people."""
        parts = [
            f"{self.policy}: {count(self.prompt_tokens, 'token')} read in {count(self.kv_cells_peak, 'cell')}",
            f"kept {self.kv_cells_kept:,}",
            f"KV {self.kv_bytes_peak / MIB:.1f} -> {self.kv_bytes_kept / MIB:.1f} MiB",
            f"{self.ttft_s:.1f} s to first token",
        ]
        if self.chunks:
            read = [str(i) for i, chunk in enumerate(self.chunks, start=1) if chunk["is_read"]]
            parts.insert(1, f"re-read {', '.join(read)} of {count(len(self.chunks), 'chunk')}")
        skipped, stored = skip_note((self.windows_read, self.windows)), store_note(self.windows_stored)
        parts += [f"{self.decode_tps:.1f} tokens/s"] if self.decode_tps is not None else []
        parts += [stored] if stored else []
        if skipped:
            parts.insert(1, skipped)
        if self.attention_kept is not None:
            parts.insert(2, f"they hold {self.attention_kept:.0%} of the attention")
        if self.positions == "compact":
            parts.insert(1, "positions were compacted")
        return "; ".join(parts)


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in fields.items()}


def answer(options: Options) -> int:
    """Read, evict, answer; returns the exit code."""
    check_budget(options.reading)
    check_model(options.model)
    # what llama.cpp reports becomes a part of our errors
    with captured_log():
        return _answer(options, Console(stderr=True))


def _fits(options: Options, engine: Engine, prompt: Prompt, policy: Policy) -> bool:
    """Return whether all of the document is read at once."""
    budget = find_budget(options.reading, engine, options.model.ctx_size)
    return engine.fits(prompt, policy, budget, one_shot=options.reading.one_shot)


def _answer(options: Options, console: Console) -> int:
    reading, sampling = options.reading, options.sampling
    if options.whole == "on" and not options.asked:
        raise UsageError("asks each window a question: give one", param="whole")
    document, notes = read_one(options.documents, console)
    engine = open_to_read(options.model, reading, options.store, console, seed=sampling.seed)
    policy = get_policy(reading.policy, reading.granularity, engine.heads)
    prompt = chat_prompt(engine.model, document.text, options.asked, options.answer_prefix)
    if options.whole == "on":
        if not _fits(options, engine, prompt, policy):
            return WholeAnswer(options, console, engine, policy, document, notes).run()
        say([FITS], console)

    start = time.perf_counter()
    # what asks for all by its words may still have its answer in one place
    may_be_whole = options.whole == "auto" and extent_of(options.asked) is not None
    read = read_prompt(
        engine,
        prompt,
        policy,
        reading,
        console,
        n_predict=sampling.predict,
        ctx_size=options.model.ctx_size,
        goes_on=(lambda chunks: not is_flat(chunks)) if may_be_whole else None,
    )
    if not read.cells_kept:
        return WholeAnswer(options, console, engine, policy, document, notes).run()
    absent = absent_note(read.chunks, options.asked)
    part = part_note(options.asked, read.mode == ReadMode.SKIM)
    lines = absent, f"{part}: --whole on asks all" if part else None
    say([line for line in lines if line and not options.json], console)
    written = write_answer(engine, read.n_predict, sampling.temp, not options.json)
    sources, coverage = find_sources(engine, document), find_coverage(engine, document)
    if not options.json:
        say_sources(sources, coverage, console)
    warn(read, console)
    say([cut_note(read.n_predict)] if engine.is_cut and not options.json else [], console)
    guessed = guess_note(read.n_windows, engine.heads)
    say([guessed] if guessed and not options.json else [], console)
    profile = reading.heads or find_profile_file(engine.model.path)
    result = Result(
        answer=written.text,
        finish_reason="length" if engine.is_cut else "stop",
        sources=[source.fields() for source in sources],
        coverage=coverage.fields() if coverage else None,
        not_found=absent is not None,
        partial=part is not None,
        notes=notes,
        policy=policy.name,
        reading=read.mode.value,
        positions="compact" if read.is_compact else "true",
        prompt_tokens=len(prompt),
        tokens_evaluated=read.tokens_evaluated,
        windows_read=read.n_windows[0],
        windows=read.n_windows[1],
        windows_stored=read.n_stored,
        head_profile=None if profile is None else str(profile),
        chunks=[_rounded(asdict(chunk)) for chunk in read.chunks],
        kv_cells_peak=read.cells_peak,
        kv_cells_kept=read.cells_kept,
        unpinned_tokens=read.n_unpinned,
        kv_bytes_peak=read.bytes_peak,
        kv_bytes_kept=read.bytes_kept,
        attention_kept=None if read.attention_kept is None else round(read.attention_kept, 4),
        evict_s=round(read.evict_seconds, 3),
        ttft_s=round(written.first - start, 3),
        decode_tps=written.tps,
        rss_mib=round(psutil.Process().memory_info().rss / MIB, 1),
    )
    if options.json:
        print(json.dumps(asdict(result), ensure_ascii=False))
    else:
        console.print(result.line(), style="dim", highlight=False, soft_wrap=True)
    return 0
