"""A sequence into which prompts are brought that may begin as the last one did."""

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, replace
from functools import partial

from ..cache.sequence import Sequence
from ..cells import CHUNK
from ..control import UNCONTROLLED, Control
from ..errors import AbortedError, NotReadError, TooLongError
from ..eviction.heads import HeadProfile
from ..eviction.policies import Policy
from ..llamacpp import native
from ..llamacpp.model import Model
from ..planning.ram import CACHE_RAM
from ..prompt import QUESTION, Kind, Prompt
from ..prompt.pins import fit
from ..prompt.request import N_LONG, N_SHORT, N_SYSTEM, split_prompt
from ..prompt.turns import Message
from ..prompt.window import ending_of
from ..store.store import Store
from .ahead import Ahead, store_windows
from .align import align
from .budgeted import BudgetedSequence
from .decide import N_ANSWER, Append, Limits, Reread, Reuse, decide
from .due import can_be_due
from .plan import Plan, ReadMode, SkimMode, make_plan, skim_mode
from .relevance import Serves, serves
from .skimming import skimming_of
from .stats import ReadStats, Unsettled, read_as_planned
from .strategies import GoesOn, Kept, PutOff, Skimming

# tokens that are read ahead into the cache, at least
N_AHEAD = 2 * CHUNK


@dataclass(frozen=True)
class _Incoming:
    """A prompt that is brought in, as `PromptedSequence.prefill` takes it."""

    tokens: list[int]
    messages: Tokens[Message] | None
    control: Control
    goes_on: GoesOn | None


class PromptedSequence(BudgetedSequence):
    """One sequence of a model, within a budget, and prompts that are brought into it by `prefill`.

    Args:
        model: An opened model.
        heads: Its head profile, by which relevance is seen.
        serves: Says whether the kept cells answer a new question; if not, the whole text is read again.
        skim: Whether reading may stop before the end of a document, see `SkimMode`.
        store: Keeps the windows of documents that are read, and conversations.
        ram: As `BudgetedSequence` takes it, and so are `one_shot`, `all_logits` and `cache_ram`.

    Raises `DapqError` if the profile is of another model, and `UsageError` if there is no such `skim`.

    Attributes:
        skim: Whether reading may stop before the end of a document.
        n_prompt: Tokens of the last prompt, as they are in the sequence.
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
        super().__init__(
            model, heads, ram=ram, one_shot=one_shot, all_logits=all_logits, store=store, cache_ram=cache_ram
        )
        self.skim = skim_mode(skim)
        self._last_read: ReadStats | None = None
        self.n_prompt = self.n_cached = 0
        self._serves = serves

    @property
    def last_read(self) -> ReadStats | None:
        """Costs of the last prompt that was read, and not only appended."""
        self._beginning.evict()
        return self._last_read

    @property
    def unsettled(self) -> Unsettled:
        """The ledger and the costs, before an eviction that is due."""
        return Unsettled(self._beginning.written, self._last_read, self._n_windows)

    def prefill(
        self,
        tokens: Tokens[int],
        control: Control = UNCONTROLLED,
        messages: Tokens[Message] | None = None,
        goes_on: GoesOn | None = None,
    ) -> None:
        """Bring a prompt into the cache, so that its last token has logits. What it shares with the last one is reused.

        An eviction that looks ahead to the answer is done when the answer has begun, or when anybody looks at what is
        kept.

        Args:
            tokens: Token ids.
            control: Watches and stops.
            messages: Where its messages are; without that, they begin with control tokens.
            goes_on: Told all chunks of a document that does not fit, says whether the most relevant ones are read.

        Raises `TooLongError`, `NotReadError` if `goes_on` says no, what `control` raises, and `DapqError` if llama.cpp
        fails. The sequence is empty then, but a prompt that fits whole and was stopped goes on where it was.
        """
        new = _Incoming(list(tokens), messages, control, goes_on)
        try:
            self._evict_or_forget()
            self.cache.mend()
            self._is_answering = False
            self._beginning.end()
            if self.scores is None:
                self._conversations.exchange(self.cache, lambda sequence: self._aligned(sequence, new).tokens)
            self._prefill(new)
            self._beginning.start(can_be_foreseen=self.scores is None)
            self._is_answering = True
        except BaseException as error:
            self._beginning.forget_due()
            is_stopped = isinstance(error, (AbortedError, KeyboardInterrupt))
            if not is_stopped or self.sequence.n_frozen or len(new.tokens) > self.budget.n_limit:
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

    def fits_configured(self, tokens: Tokens[int], messages: Tokens[Message] | None = None) -> bool:
        """Return whether `prefill` reads all of a prompt at once. Arguments as there."""
        if self.scores is not None:
            return True
        try:
            return self._plan(self._fit(list(tokens), messages)).mode == ReadMode.FULL
        except TooLongError:
            return False

    def _aligned(self, sequence: Sequence, new: _Incoming) -> _Incoming:
        """Return a prompt with the tokens of a sequence where both are the same text, see `align`."""
        # what fits whole is as llama-cpp-python has it, to the token
        if self.scores is not None or not (sequence.n_frozen or len(new.tokens) > self.budget.n_limit):
            return new
        tokens, messages = align(self.model, sequence, new.tokens, new.messages)
        return replace(new, tokens=tokens, messages=messages)

    def _prefill(self, new: _Incoming) -> None:
        if len(new.tokens) > self.n_ctx:
            raise TooLongError(f"{len(new.tokens):,} tokens exceed the context of {self.n_ctx:,}")
        self._n_unpinned, self._n_windows, self._n_stored = 0, (0, 0), 0
        self._faults = self.take_faults()
        new = self._aligned(self.sequence, new)
        tokens = new.tokens
        self.n_prompt = len(tokens)
        step = decide(self.sequence, tokens, self._limits)
        if isinstance(step, Reuse | Append) and not self.cache.can_go_on(step.n_tokens):
            step = decide(Sequence(), tokens, self._limits)
        # what was chosen for another question says nothing about this one
        is_chosen = new.goes_on is not None and self.sequence.n_skipped > 0
        if isinstance(step, Reread) or is_chosen:
            known = [self.sequence, *self._conversations.sequences]
            self._n_rereads += any(_is_known(sequence, tokens) for sequence in known)
            self._read_anew(new)
            return
        self.n_cached = step.n_tokens
        if step.n_tokens == 0:
            self.cache.clear()
        else:
            self.truncate(step.n_tokens)
        if isinstance(step, Append):
            self._append_prompt(new, step)
        elif not self.cache.has_logits and self.sequence.logits_at_eviction is not None:
            self.cache.put_logits(self.sequence.logits_at_eviction)

    def _append_prompt(self, new: _Incoming, step: Append) -> None:
        tokens, control = new.tokens, new.control
        n_limit = self.budget.n_limit + (N_ANSWER if step.may_reread else 0)
        n_cells = self.sequence.n_cells + len(tokens) - step.n_tokens
        if not self.is_evicted or not (step.may_reread or n_cells > n_limit):
            self.append(tokens[step.n_tokens :], control)
            return
        prompt = self._fit(tokens, new.messages)
        self._n_unpinned = prompt.n_unpinned
        n_text = max(step.n_tokens, len(prompt.text))
        self.cache.pin(prompt.pinned)
        ending = ending_of(prompt)
        self.append(tokens[step.n_tokens : n_text], control, len(ending))
        n_answer = N_ANSWER + self._n_working
        with self.cache.before(ending, n_answer):
            self._make_room()
            is_served = not step.may_reread or self._is_served(prompt, step.n_tokens, n_text)
            if is_served and self._is_full(len(tokens) - n_text, n_limit):
                # with the logits of all tokens, what is written is read only once
                is_put_off = self.scores is None and ending == tokens[n_text:]
                if is_put_off and can_be_due(self.cache, self.policy, self.budget.n_start):
                    self._put_off(ending, n_answer, partial(self._evict, self.policy))
                    self._cache.read(ending)
                    return
                self._evict(self.policy)
        if is_served:
            self.append(tokens[n_text:], control)
        else:
            self._n_rereads += 1
            self._read_anew(new, prompt)

    def _is_full(self, n_tokens: int, n_limit: int) -> bool:
        """Return whether `n_tokens` more are beyond a limit of cells, or leave too few free ones for an answer.

        Layers with more cells than the limit may have them, so far as no others need them.
        """
        n_most = max(n_limit, native.n_cells(self.cache.ctx) - N_ANSWER)
        return self.cache.n_cells_mean + n_tokens > n_limit or self.sequence.n_cells + n_tokens > n_most

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

    def _read_anew(self, new: _Incoming, prompt: Prompt | None = None) -> None:
        """Read the whole prompt; `prompt` is what `_fit` made of it, if that is known."""
        self.n_cached = 0
        self.cache.clear()
        if self.scores is not None:
            # the logits of all tokens are wanted
            self.append(new.tokens, new.control)
            self._evict(self.policy)
            return
        prompt = prompt or self._fit(new.tokens, new.messages)
        self._n_unpinned = prompt.n_unpinned
        # small talk is not read again
        has_document = self._one_shot or prompt.n_longest > max(N_LONG, self.budget.n_start // 2)

        def put_off(ending: list[int], n_answer: int, evict: Callable[[], Kept]) -> None:
            # the ledger that the eviction goes back to
            self._cache.note_document(has_document)
            self._put_off(ending, n_answer, lambda: self._note_kept(evict()))

        plan = self._plan(prompt)
        read = self._last_read = self._read_planned(prompt, self.policy, plan, new.control, new.goes_on, put_off)
        if not self._cache.sequence.n_tokens:
            raise NotReadError("the document was looked at, but no part of it was read")
        self._n_evictions += 1
        self._n_windows, self._n_stored = read.n_windows, read.n_stored
        self._faults += read.faults
        self._cache.note_document(has_document)

    def _note_kept(self, kept: Kept) -> None:
        """Say what an eviction kept that was put off."""
        if self._last_read:
            self._last_read = self._last_read.after(kept)

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
        self,
        prompt: Prompt,
        policy: Policy,
        plan: Plan,
        control: Control,
        goes_on: GoesOn | None = None,
        put_off: PutOff | None = None,
    ) -> ReadStats:
        skimming = self._skimming
        if goes_on:
            # it is told about all of the document
            skimming = replace(skimming, may_stop=False, goes_on=goes_on)
        return read_as_planned(self.cache, prompt, policy, plan, control, skimming, put_off)

    @property
    def _skimming(self) -> Skimming:
        return skimming_of(self.model, self.heads, self.skim, self.store.windows if self.store else None)


def _is_known(sequence: Sequence, tokens: Tokens[int]) -> bool:
    """Return whether most of a prompt, or of a sequence, is what both begin with."""
    return 2 * sequence.n_same(tokens) > min(sequence.n_tokens, len(tokens))
