"""The engine: brings prompts into a cache, within a budget, and goes on from there."""

import contextlib
from collections.abc import Generator, Iterator
from collections.abc import Sequence as Tokens
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache
from ..cache.sequence import Sequence
from ..cells import CHUNK, pad
from ..control import UNCONTROLLED, Control
from ..errors import AbortedError, DapqError, NotReadError, TooLongError
from ..eviction.budget import Auto, Budget
from ..eviction.heads import HeadProfile
from ..eviction.policies import Full, Policy
from ..llamacpp import native
from ..llamacpp.model import Model
from ..planning.ram import CACHE_RAM, for_conversations
from ..prompt import QUESTION, Kind, Prompt
from ..prompt.pins import fit
from ..prompt.request import N_LONG, N_SHORT, N_SYSTEM, split_prompt
from ..prompt.turns import Message
from ..prompt.window import ending_of, window_of
from ..store.conversations import Conversations
from ..store.store import Store
from .ahead import Ahead, store_windows
from .align import Aligned, align
from .decide import N_ANSWER, Append, Limits, Reread, decide
from .pieces import text_pieces
from .plan import N_SKIM, Plan, ReadMode, SkimMode, make_plan, skim_mode
from .relevance import Serves, serves
from .room import plan_auto, plan_room
from .skimming import skimming_of
from .stats import ReadStats, Usage, read_as_planned
from .strategies import GoesOn, Skimming
from .whole import WindowAnswer, answer_windows, n_cells_of, windows_of
from .windows import N_OVERLAP, SIZES

# tokens that are read ahead into the cache, at least
N_AHEAD = 2 * CHUNK


class Engine:
    """One sequence of a model, within a budget.

    `prefill` brings in prompts that may begin as the last one did; `read` reads one prompt, in a context of its own.

    Args:
        model: An opened model.
        heads: Its head profile, by which relevance is seen.
        ram: Bytes of memory that were free before the model was loaded, for `Auto` budgets.
        serves: Says whether the kept cells answer a new question; if not, the whole text is read again.
        one_shot: Evict only when everything is read; the peak is the full cache.
        all_logits: Keep the logits of all tokens.
        skim: Whether reading may stop before the end of a document, see `SkimMode`.
        store: Keeps the windows of documents that are read, and conversations.
        cache_ram: MiB of memory for conversations that were left, see `for_conversations`.

    Raises `DapqError` if the profile is of another model, and `UsageError` if there is no such `skim`.

    Attributes:
        cache: Its cells; `cache.sequence` is the ledger.
        n_ctx: Tokens of prompt and answer at most.
        policy: Chooses what is kept.
        budget: Says how much.
        wanted: Policy and budget of the last `configure`, None if what is open is not what was wanted.
        scores: The logits of all tokens, if they are kept: float32 [n_ctx, n_vocab].
        skim: Whether reading may stop before the end of a document.
        store: Keeps the windows of documents that are read, and conversations.
        last_read: How the last prompt was read, of those that were not only appended.
        n_prompt: Tokens of the last prompt, as they are in the sequence.
        is_cut: Whether the last answer of `stream` was given no end by the model.
        n_cached: First tokens of it whose cells were there already.
    """

    def __init__(
        self,
        model: Model,
        heads: HeadProfile | None = None,
        *,
        ram: int = 0,
        serves: Serves = serves,
        one_shot: bool = False,
        all_logits: bool = False,
        skim: SkimMode | str = SkimMode.AUTO,
        store: Store | None = None,
        cache_ram: int = CACHE_RAM,
    ) -> None:
        self.model = model
        self.heads = heads
        self.cache = KVCache(model.context)
        probed = native.probe_heads(model.context)
        if heads is not None and probed:
            heads.check(probed)
        self.scores: npt.NDArray[np.float32] | None = None
        self.last_read: ReadStats | None = None
        self.n_prompt = self.n_cached = 0
        self.is_cut = False
        self.skim = skim_mode(skim)
        self.store = store
        self._all_logits = all_logits
        self._ram = ram
        self._serves = serves
        self._one_shot = one_shot
        self._n_evictions = self._n_rereads = self._n_unpinned = 0
        self._n_windows, self._n_stored = (0, 0), 0
        self._faults: list[str] = []
        self._n_configured = self.cache.allocated[0]
        self._conversations = Conversations(for_conversations(cache_ram, ram), store.states if store else None)
        # whether what is appended is an answer, of which nothing was evicted so far
        self._is_answering = False
        self._keep_all(self._n_configured)

    def _keep_all(self, n_ctx: int) -> None:
        self.policy: Policy = Full()
        self.wanted: tuple[Policy, Budget | None] | None = None
        self.budget = Auto(n_ctx, n_ctx)
        self._set_length(n_ctx)

    def _set_length(self, n_ctx: int) -> None:
        self.n_ctx = n_ctx
        if self._all_logits:
            before, self.scores = self.scores, np.zeros((n_ctx, self.model.n_vocab), dtype=np.float32)
            n_tokens = self.sequence.n_tokens
            if before is not None and n_tokens:
                self.scores[:n_tokens] = before[:n_tokens]

    @property
    def sequence(self) -> Sequence:
        """The ledger."""
        return self.cache.sequence

    @property
    def is_evicted(self) -> bool:
        """True if a text of `n_ctx` tokens does not fit whole."""
        return self.budget.n_limit < self.n_ctx

    @property
    def usage(self) -> Usage:
        """Memory that the sequence takes now."""
        used, allocated = self.cache.used, self.cache.allocated
        return Usage(
            n_tokens=self.sequence.n_tokens,
            n_cells_used=used[0],
            n_cells=allocated[0],
            bytes_used=used[1],
            bytes_allocated=allocated[1],
            n_evictions=self._n_evictions,
            n_rereads=self._n_rereads,
            n_unpinned=self._n_unpinned,
            n_windows=self._n_windows,
            n_stored=self._n_stored,
            faults=self._faults,
            attention_kept=self.sequence.attention_kept,
        )

    # settings

    def configure(self, policy: Policy, budget: Budget | None, n_ctx: int = 0) -> None:
        """Choose how the next prompts are evicted, and open a new, empty context for that.

        Args:
            policy: Chooses what is kept.
            budget: Says how much of a text of `n_ctx` tokens; None to keep all.
            n_ctx: Tokens of prompt and answer at most; 0 for as many as before.

        Raises `UsageError`, `UnsupportedModelError` if the model cannot be evicted in this way, and `DapqError` if
        there is not enough memory. Whatever is raised, policy and budget stay as they were.
        """
        policy, n_ctx = policy.with_heads(self.heads), n_ctx or self._n_configured
        planned, n_cells = plan_room(
            self.model,
            self.cache,
            policy,
            budget,
            n_ctx,
            ram=self._ram_of_one,
            one_shot=self._one_shot,
        )
        before, wanted = self.cache.allocated[0], self.wanted
        # whatever happens now, the next call knows
        self.put_away()
        try:
            self.open(n_cells)
        except DapqError:
            self.open(before)
            self.wanted = wanted
            raise
        self.policy, self.budget, self.wanted = policy, planned, (policy, budget)
        self._conversations.settings = repr(self.wanted)
        self._n_configured = n_ctx
        self._set_length(n_ctx)

    def auto_budget(self, n_ctx: int) -> Auto:
        """Return the budget that the memory has room for, beside the model. Raises `DapqError` if there is none."""
        return plan_auto(self.model, self._ram_of_one, n_ctx)

    @property
    def _ram_of_one(self) -> int:
        """Bytes of memory for the model and the conversation that goes on."""
        return self._ram - self._conversations.n_max

    def open(self, n_cells: int) -> None:
        """Open a new, empty context of at least `n_cells` cells. Raises `DapqError` if there is not enough memory."""
        self._conversations.forget()
        self._open(n_cells)

    def _open(self, n_cells: int) -> None:
        try:
            self.cache = KVCache(self.model.open_context(n_cells))
        except DapqError:
            self.cache, self.wanted = KVCache(self.model.context), None
            raise

    @contextlib.contextmanager
    def _aside(self, n_cells: int) -> Iterator[None]:
        """Lend an empty context of at least `n_cells` cells; behind it, conversations can go on where they were."""
        n_before, wanted = self.cache.allocated[0], self.wanted
        if wanted is None:
            # what `read` brought in is of one prompt
            self.open(n_cells)
            yield
            return
        if self.scores is None:
            self._conversations.keep(self.cache)
        try:
            self._open(n_cells)
            yield
        finally:
            self._open(n_before)
            self.wanted = wanted

    def extend(self, n_ctx: int) -> None:
        """Make room for a text of `n_ctx` tokens. What cannot be evicted is lost: it needs another context."""
        if n_ctx <= self.n_ctx:
            return
        if self.is_evicted and not self._one_shot:
            self._n_configured = n_ctx
            self._set_length(n_ctx)
        else:
            self.configure(*(self.wanted or (self.policy, None)), n_ctx)

    # the sequence

    def reset(self) -> None:
        """Forget the sequence, and the conversations before it."""
        self.cache.clear()
        self._conversations.forget()

    def put_away(self) -> None:
        """Move the conversations that `prefill` began to disk, if there is a store; another context is opened next."""
        if self.wanted is not None and self.scores is None:
            self._conversations.put_away(self.cache)
        self.wanted = None

    def take_faults(self) -> list[str]:
        """Return what went wrong with the store since the last prompt was read, one line each."""
        return self.store.catalog.take_faults() if self.store else []

    def truncate(self, n_tokens: int) -> None:
        """Forget all tokens after the first `n_tokens`. Raises ValueError if some of those that stay are lost."""
        if n_tokens != self.sequence.n_tokens:
            self.cache.truncate(n_tokens)

    def append(self, tokens: Tokens[int], control: Control = UNCONTROLLED) -> None:
        """Evaluate tokens after the sequence; where the cells are used up, evict.

        Raises `TooLongError` if there are more than `n_ctx`, what `control` raises, and as `KVCache.read` does.
        """
        control.check()
        n_before, n_tokens = self.sequence.n_tokens, len(tokens)
        if n_before + n_tokens > self.n_ctx:
            raise TooLongError(f"the context of {self.n_ctx:,} tokens is full")
        n_part, n_free = self.model.n_batch, self.n_ctx
        if self.is_evicted:
            n_free = native.n_cells(self.cache.ctx) - self._n_working
            if self.sequence.n_cells + n_tokens > n_free:
                n_part = min(n_part, CHUNK - self.policy.n_probe)
        for start in range(0, n_tokens, n_part):
            part = tokens[start : start + n_part]
            control.report(start, n_tokens)
            if self.is_evicted and self.sequence.n_cells + len(part) > n_free:
                if self._is_answering:
                    # for another answer, or the same one with other white space
                    self._conversations.keep(self.cache)
                    self._is_answering = False
                self._evict(self.policy.while_reading)
            first = n_before + start
            self.cache.read(part, None if self.scores is None else self.scores[first : first + len(part)])

    @property
    def _n_working(self) -> int:
        """Free cells that an eviction needs."""
        return self.policy.n_probe + self.policy.n_branch(self.budget.n_limit)

    def _evict(self, policy: Policy) -> None:
        if policy.evict(self.cache, self.budget.n_start, self.budget.n_limit):
            self._n_evictions += 1
            if self._one_shot:
                self.cache.note_document(True)

    # prompts

    def prefill(
        self,
        tokens: Tokens[int],
        control: Control = UNCONTROLLED,
        messages: Tokens[Message] | None = None,
        goes_on: GoesOn | None = None,
    ) -> None:
        """Bring a prompt into the cache, so that its last token has logits. What it shares with the last one is reused.

        Args:
            tokens: Token ids.
            control: Watches and stops.
            messages: Where its messages are; without that, they begin with control tokens.
            goes_on: Told all chunks of a document that does not fit, says whether the most relevant ones are read.

        Raises `TooLongError`, `NotReadError` if `goes_on` says no, what `control` raises, and `DapqError` if llama.cpp
        fails. The sequence is empty then, but a prompt that fits whole and was stopped goes on where it was.
        """
        tokens = list(tokens)
        try:
            self.cache.mend()
            self._is_answering = False
            if self.scores is None:
                self._conversations.exchange(self.cache, lambda sequence: self._aligned(sequence, tokens, messages)[0])
            self._prefill(tokens, control, messages, goes_on)
            self._is_answering = True
        except BaseException as error:
            is_stopped = isinstance(error, (AbortedError, KeyboardInterrupt))
            if not is_stopped or self.sequence.n_frozen or len(tokens) > self.budget.n_limit:
                self.cache.clear()
            raise

    def prefill_ahead(
        self,
        tokens: Tokens[int],
        n_known: int,
        control: Control = UNCONTROLLED,
        messages: Tokens[Message] | None = None,
    ) -> Ahead:
        """Read what is known of a prompt before its question: into the cache, if it fits whole, else into the store.

        What cannot be read so is left for the question. A reading that is stopped goes on where it was, and the
        conversation in the cache, too.

        Args:
            tokens: Token ids, with a question of any kind.
            n_known: First tokens, before the question.
            control: Watches and stops.
            messages: As for `prefill`.

        Raises as `prefill` does.
        """
        tokens = list(tokens)
        if self.scores is not None or len(tokens) > self.n_ctx:
            return Ahead()
        if len(tokens) <= self.budget.n_limit:
            # what is not worth it is read with the question: the answer in the cache can be cited until then
            if n_known - self.sequence.n_same(tokens[:n_known]) > N_AHEAD:
                self.prefill(tokens[:n_known], control)
            return Ahead()
        self.cache.mend()
        step = decide(self.sequence, tokens, self._limits)
        if self.store is None or not isinstance(step, Reread | Append):
            return Ahead()
        prompt = self._fit(tokens, messages)
        plan = self._plan(prompt)
        text = self.sequence.text.tolist()
        if plan.mode != ReadMode.SKIM or (text and not self._conversations.keep(self.cache)):
            return Ahead()
        try:
            return store_windows(self.cache, prompt, self._skimming, plan.n_window, control)
        finally:
            self.cache.clear()
            self._conversations.exchange(self.cache, lambda _: text)

    def _aligned(self, sequence: Sequence, tokens: list[int], messages: Tokens[Message] | None) -> Aligned:
        """Return a prompt with the tokens of a sequence where both are the same text, see `align`."""
        # what fits whole is as llama-cpp-python has it, to the token
        if self.scores is None and (sequence.n_frozen or len(tokens) > self.budget.n_limit):
            return align(self.model, sequence, tokens, messages)
        return tokens, messages

    def _prefill(
        self, tokens: list[int], control: Control, messages: Tokens[Message] | None, goes_on: GoesOn | None
    ) -> None:
        if len(tokens) > self.n_ctx:
            raise TooLongError(f"{len(tokens):,} tokens exceed the context of {self.n_ctx:,}")
        self._n_unpinned, self._n_windows, self._n_stored = 0, (0, 0), 0
        self._faults = self.take_faults()
        tokens, messages = self._aligned(self.sequence, tokens, messages)
        self.n_prompt = len(tokens)
        step = decide(self.sequence, tokens, self._limits)
        # what was chosen for another question says nothing about this one
        is_chosen = goes_on is not None and self.sequence.n_skipped > 0
        if isinstance(step, Reread) or is_chosen:
            known = [self.sequence, *self._conversations.sequences]
            self._n_rereads += any(_is_known(sequence, tokens) for sequence in known)
            self._read_anew(tokens, control, messages, goes_on)
            return
        self.n_cached = step.n_tokens
        if step.n_tokens == 0:
            self.cache.clear()
        else:
            self.truncate(step.n_tokens)
        if isinstance(step, Append):
            self._append_prompt(tokens, step, control, messages, goes_on)
        elif not self.cache.has_logits and self.sequence.logits_at_eviction is not None:
            self.cache.put_logits(self.sequence.logits_at_eviction)

    def _append_prompt(
        self,
        tokens: list[int],
        step: Append,
        control: Control,
        messages: Tokens[Message] | None,
        goes_on: GoesOn | None,
    ) -> None:
        n_limit = self.budget.n_limit + (N_ANSWER if step.may_reread else 0)
        n_cells = self.sequence.n_cells + len(tokens) - step.n_tokens
        if not self.is_evicted or not (step.may_reread or n_cells > n_limit):
            self.append(tokens[step.n_tokens :], control)
            return
        prompt = self._fit(tokens, messages)
        self._n_unpinned = prompt.n_unpinned
        n_text = max(step.n_tokens, len(prompt.text))
        self.cache.pin(prompt.pinned)
        self.append(tokens[step.n_tokens : n_text], control)
        with self.cache.before(ending_of(prompt)):
            self._make_room()
            is_served = not step.may_reread or self._is_served(prompt, step.n_tokens, n_text)
            if is_served and self.sequence.n_cells + len(tokens) - n_text > n_limit:
                self._evict(self.policy)
        if is_served:
            self.append(tokens[n_text:], control)
        else:
            self._n_rereads += 1
            self._read_anew(tokens, control, messages, goes_on, prompt)

    def _make_room(self) -> None:
        """Evict before an eviction looks ahead, if there are too few cells for what comes before the answer."""
        n_free = native.n_cells(self.cache.ctx) - self.sequence.n_cells
        if self.is_evicted and n_free < self._n_working + len(self.cache.ending):
            self._evict(self.policy.while_reading)

    def _fit(self, tokens: list[int], messages: Tokens[Message] | None) -> Prompt:
        """Return the parts of a prompt, of which the pinned ones have at most half of the cells that are kept."""
        half = self.budget.n_start // 2
        return fit(split_prompt(self.model, tokens, messages, min(N_LONG, half), max(N_SYSTEM, half)), half)

    @property
    def _limits(self) -> Limits:
        n_cells = self.cache.allocated[0]
        return Limits(
            n_most=self.budget.n_limit,
            n_cells=n_cells,
            n_working=self._n_working,
            n_ctx=self.n_ctx,
            n_ctx_train=self.model.n_ctx_train,
            can_skim=self.policy.sees_attention,
            is_recurrent=self.cache.is_recurrent,
            has_logits=self.cache.has_logits,
            needs_whole_prompt=self.policy.needs_whole_prompt,
        )

    def _is_served(self, prompt: Prompt, n_known: int, n_text: int) -> bool:
        """Return whether the kept cells answer the request, which was just evaluated, or none need to."""
        requests = [part for part in prompt.of_kind(Kind.REQUEST) if part.stop > n_known]
        n_tokens = sum(part.stop - max(part.start, n_known) for part in requests)
        # a remark ("Thanks!") asks for no document
        is_asking = n_tokens >= N_SHORT or any(part.level == QUESTION for part in requests)
        if not (is_asking and self.policy.sees_attention and self.sequence.has_document):
            return True
        start = max(prompt.question.start if prompt.question else n_known, n_known)
        return self._serves(self.cache, prompt.tokens[start:n_text], self.heads, self.policy.n_probe)

    def _read_anew(
        self,
        tokens: list[int],
        control: Control,
        messages: Tokens[Message] | None,
        goes_on: GoesOn | None,
        prompt: Prompt | None = None,
    ) -> None:
        """Read the whole prompt; `prompt` is what `_fit` made of it, if that is known."""
        self.n_cached = 0
        self.cache.clear()
        if self.scores is not None:
            # the logits of all tokens are wanted
            self.append(tokens, control)
            self._evict(self.policy)
            return
        prompt = prompt or self._fit(tokens, messages)
        self._n_unpinned = prompt.n_unpinned
        self.last_read = self._read_planned(prompt, self.policy, self._plan(prompt), control, goes_on)
        if not self.last_read.cells_kept:
            raise NotReadError("the document was looked at, but no part of it was read")
        self._n_evictions += 1
        self._n_windows, self._n_stored = self.last_read.n_windows, self.last_read.n_stored
        self._faults += self.last_read.faults
        # small talk is not read again
        self.cache.note_document(self._one_shot or prompt.n_longest > max(N_LONG, self.budget.n_start // 2))

    def _plan(self, prompt: Prompt) -> Plan:
        return make_plan(
            prompt,
            self.policy,
            self.budget,
            n_predict=N_ANSWER,
            n_ctx_train=self.model.n_ctx_train,
            one_shot=self._one_shot,
        )

    def _read_planned(
        self, prompt: Prompt, policy: Policy, plan: Plan, control: Control, goes_on: GoesOn | None = None
    ) -> ReadStats:
        skimming = self._skimming
        if goes_on:
            # it is told about all of the document
            skimming = replace(skimming, may_stop=False, goes_on=goes_on)
        return read_as_planned(self.cache, prompt, policy, plan, control, skimming)

    @property
    def _skimming(self) -> Skimming:
        return skimming_of(self.model, self.heads, self.skim, self.store.windows if self.store else None)

    # one prompt

    def read(
        self,
        prompt: Prompt | Tokens[int],
        policy: Policy,
        budget: Budget,
        *,
        n_predict: int = 256,
        n_cells: int = 0,
        one_shot: bool = False,
        allow_overflow: bool = False,
        goes_on: GoesOn | None = None,
        control: Control = UNCONTROLLED,
    ) -> ReadStats:
        """Read a prompt into a new context and evict its cache to the budget, in bounded memory unless `one_shot`.

        The logits of the last token stay for `stream`, and room for `n_predict` tokens.

        Args:
            prompt: With its question known, or plain tokens.
            policy: Chooses what is kept.
            budget: Says how much.
            n_predict: Tokens of the answer at most.
            n_cells: Cells of the context; 0 for as many as are needed.
            one_shot: Read everything, then evict.
            allow_overflow: Go beyond the context length that the model was trained for.
            goes_on: Says, when a document was skimmed, whether it is read, see `Skimming.goes_on`.
            control: Watches and stops.

        Raises `DapqError` if the cells are too few or if llama.cpp fails, and as `make_plan` and `Policy.evict` do.
        """
        prompt = prompt if isinstance(prompt, Prompt) else Prompt.of([], list(prompt), [], has_question=False)
        policy = policy.with_heads(self.heads)
        policy.check(self.cache)
        options = {"n_predict": n_predict, "one_shot": one_shot, "allow_overflow": allow_overflow}
        prompt, plan = self._planned(prompt, policy, budget, **options)
        if 0 < n_cells < plan.n_cells:
            raise DapqError(f"reading needs {plan.n_cells:,} cells: raise `n_ctx={n_cells}` or leave it out")
        n_cells = max(n_cells, plan.n_cells)
        self.open(n_cells)
        self._keep_all(max(pad(n_cells), len(prompt) + plan.n_predict))
        stats = self.last_read = self._read_planned(prompt, policy, plan, control, goes_on)
        self.n_prompt = len(prompt)
        n_needed = pad(stats.cells_kept + prompt.n_end + plan.n_predict)
        # bounded reading leaves no more than a chunk to give back
        if plan.mode == ReadMode.FULL and stats.cells_kept < len(prompt) and n_needed < stats.cells_peak:
            native.resize(self.cache.ctx, n_needed)
        return stats

    def fits(self, prompt: Prompt, policy: Policy, budget: Budget, *, one_shot: bool = False) -> bool:
        """Return whether `read` reads all of a prompt at once, so that its answer is from all of it."""
        try:
            _, plan = self._planned(prompt, policy.with_heads(self.heads), budget, n_predict=1, one_shot=one_shot)
        except TooLongError:
            return False
        return plan.mode == ReadMode.FULL

    def fits_configured(self, tokens: Tokens[int], messages: Tokens[Message] | None = None) -> bool:
        """Return whether `prefill` reads all of a prompt at once. Arguments as there."""
        if self.scores is not None:
            return True
        try:
            return self._plan(self._fit(list(tokens), messages)).mode == ReadMode.FULL
        except TooLongError:
            return False

    def _planned(self, prompt: Prompt, policy: Policy, budget: Budget, **options: Any) -> tuple[Prompt, Plan]:
        """Return a prompt with what is pinned, and how it is read; `options` are those of `make_plan`."""
        if budget == Auto():
            budget = self.auto_budget(self.model.n_ctx_train)
        n_keep = policy.cells_to_keep(budget, len(prompt))
        # what is kept whole is read as llama.cpp would, at once
        prompt = fit(prompt, n_keep // 2) if n_keep < len(prompt) else prompt.whole()
        return prompt, make_plan(prompt, policy, budget, n_ctx_train=self.model.n_ctx_train, **options)

    def read_ahead(self, prompt: Prompt, control: Control = UNCONTROLLED) -> Ahead:
        """Read the windows of a document into the store, in a context of its own, see `store_windows`."""
        self.open(N_SKIM + CHUNK + len(window_of(prompt).head))
        return store_windows(self.cache, prompt, self._skimming, SIZES[0] + N_OVERLAP, control)

    def answer_windows(self, *prompts: Prompt, control: Control = UNCONTROLLED) -> Generator[WindowAnswer, None, None]:
        """Have each window of documents answer, in a context of its own, see `whole.answer_windows`."""
        windows = [windows_of(prompt, self.model.n_ctx_train) for prompt in prompts]
        n_done, n_all = 0, sum(len(prompt.body) for prompt in prompts)
        with self._aside(max(map(n_cells_of, prompts, windows))):
            for prompt, those in zip(prompts, windows, strict=True):
                part = control.of_part(n_done, n_all)
                yield from answer_windows(self.cache, self.model, prompt, those, self.store, part)
                n_done += len(prompt.body)

    def stream(self, n_predict: int, *, temp: float = 0.0) -> Iterator[str]:
        """Answer what was read: pieces of text, until the end of turn or for `n_predict` tokens.

        A token that is only a part of a character yields an empty piece, so that there is one piece per token.
        """
        yield from text_pieces(self.model, self._answer(n_predict, temp), special=False)

    def _answer(self, n_predict: int, temp: float) -> Iterator[int]:
        sampler = self.model.sampler(temp)
        self.is_cut = True
        for i in range(n_predict):
            token = self.model.sample(sampler)
            if self.model.is_end(token):
                self.is_cut = False
                return
            yield token
            if i + 1 == n_predict or self.sequence.n_tokens == self.n_ctx:
                return
            self.append([token])

    def kept(self, layer: int | None = None) -> list[tuple[str, float]]:
        """Return pieces of the text, and the share of the heads that have each of them, see `Sequence.coverage`.

        The pieces are tokens, or more than one where a character needs them.
        """
        share = self.sequence.coverage(layer).tolist()
        pieces = text_pieces(self.model, self.sequence.text.tolist(), special=True)
        # what is left of a character is one more piece than there are tokens
        return [(text, part) for text, part in zip(pieces, [*share, *share[-1:]], strict=False) if text]

    def close(self) -> None:
        """Put the conversations away, free the model and its context, and close the store."""
        self.put_away()
        self.model.close()
        if self.store:
            self.store.catalog.close()


def _is_known(sequence: Sequence, tokens: Tokens[int]) -> bool:
    """Return whether most of a prompt, or of a sequence, is what both begin with."""
    return 2 * sequence.n_same(tokens) > min(sequence.n_tokens, len(tokens))
