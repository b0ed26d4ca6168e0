"""A sequence within a budget: its context, what is added to it, and evictions where the cells are used up."""

import contextlib
import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens

import numpy as np
import numpy.typing as npt

from ..cache.kv_cache import KVCache
from ..cache.sequence import Sequence
from ..cells import CHUNK
from ..control import UNCONTROLLED, Control
from ..errors import DapqError, TooLongError
from ..eviction.budget import Auto, Budget
from ..eviction.heads import HeadProfile
from ..eviction.policies import Full, Policy
from ..llamacpp import native
from ..llamacpp.model import Model
from ..planning.ram import CACHE_RAM, for_conversations
from ..store.conversations import Conversations
from ..store.store import Store
from .beginning import Beginning
from .decide import N_ANSWER
from .pieces import text_pieces
from .room import plan_auto, plan_room
from .stats import Usage


class BudgetedSequence:
    """One sequence of a model, which takes no more cells than a budget has, and the conversations before it.

    Args:
        model: An opened model.
        heads: Its head profile, by which relevance is seen.
        ram: Bytes of memory that were free before the model was loaded, for `Auto` budgets.
        one_shot: Evict only when everything is read; the peak is the full cache.
        all_logits: Keep the logits of all tokens.
        store: Keeps conversations.
        cache_ram: MiB of memory for conversations that were left, see `for_conversations`.

    Raises `DapqError` if the profile is of another model.

    Attributes:
        n_ctx: Tokens of prompt and answer at most.
        policy: Chooses what is kept.
        budget: Says how much.
        wanted: Policy and budget of the last `configure`, None if what is open is not what was wanted.
        scores: The logits of all tokens, if they are kept: float32 [n_ctx, n_vocab].
        is_cut: Whether the last answer of `stream` was given no end by the model.
    """

    def __init__(
        self,
        model: Model,
        heads: HeadProfile | None = None,
        *,
        ram: int = 0,
        one_shot: bool = False,
        all_logits: bool = False,
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
        self.is_cut = False
        self.store = store
        self._all_logits = all_logits
        self._ram = ram
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
    def cache(self) -> KVCache:
        """The cells. An eviction that is due is done first, and tokens of the answer that were not read are read."""
        self._beginning.evict()
        if self._beginning.unread:
            self._read([], UNCONTROLLED)
            self._beginning.put_logits()
        return self._cache

    @cache.setter
    def cache(self, cache: KVCache) -> None:
        self._cache, self._beginning = cache, Beginning(cache)

    @property
    def sequence(self) -> Sequence:
        """The ledger."""
        return self.cache.sequence

    @property
    def n_tokens(self) -> int:
        """Tokens of the sequence."""
        return self._beginning.n_tokens

    @property
    def n_foreseen(self) -> int:
        """First tokens of the answer that were written before the eviction; behind `read`, they take no time."""
        return self._beginning.n_foreseen

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
            self._cache,
            policy,
            budget,
            n_ctx,
            ram=self._ram_of_one,
            one_shot=self._one_shot,
        )
        before, wanted = self._cache.allocated[0], self.wanted
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
        self._beginning.forget_due()
        self.cache.clear()
        self._conversations.forget()

    def put_away(self) -> None:
        """Move the conversations that `prefill` began to disk, if there is a store; another context is opened next."""
        if self.store is None:
            # nobody will read it
            self._beginning.forget_due()
        if self.wanted is not None and self.scores is None:
            self._evict_or_forget()
            self._conversations.put_away(self.cache)
        self.wanted = None

    def take_faults(self) -> list[str]:
        """Return what went wrong with the store since the last prompt was read, one line each."""
        return self.store.catalog.take_faults() if self.store else []

    def truncate(self, n_tokens: int) -> None:
        """Forget all tokens after the first `n_tokens`. Raises ValueError if some of those that stay are lost."""
        if n_tokens != self.n_tokens:
            self.cache.truncate(n_tokens)

    def append(self, tokens: Tokens[int], control: Control = UNCONTROLLED, n_behind: int = 0) -> None:
        """Evaluate tokens after the sequence; where the cells are used up, evict.

        A token of the answer whose logits were foreseen is not read before others follow: what the look-ahead wrote is
        not written again. An eviction that is due is done when the answer has its first tokens, or ends.

        Args:
            tokens: Token ids.
            control: Watches and stops.
            n_behind: Tokens that are read behind them before an answer is looked ahead.

        Raises `TooLongError` if there are more than `n_ctx`, what `control` raises, and as `KVCache.read` does; as
        `Policy.evict` does if an eviction that is due fails, and the sequence is empty then.
        """
        control.check()
        if len(tokens) == 0:
            return
        if self.n_tokens + len(tokens) > self.n_ctx:
            raise TooLongError(f"the context of {self.n_ctx:,} tokens is full")
        if not self._beginning.write(tokens):
            self._read(tokens, control, n_behind)

    def _read(self, tokens: Tokens[int], control: Control, n_behind: int = 0) -> None:
        """Evaluate what was not read so far, and `tokens`."""
        tokens = [*self._beginning.take_unread(), *tokens]
        n_before, n_tokens = self.sequence.n_tokens, len(tokens)
        n_part, n_free = self.model.n_batch, self.n_ctx
        if self.is_evicted:
            n_free = native.n_cells(self.cache.ctx) - self._n_working - n_behind
            if self.sequence.n_cells + n_tokens > n_free:
                n_part = min(n_part, CHUNK - self.policy.n_probe)
        for start in range(0, n_tokens, n_part):
            part = tokens[start : start + n_part]
            control.report(start, n_tokens)
            # what can follow an eviction does: a question that is cut by one cannot be asked
            n_next = n_tokens - start if self._n_kept + n_tokens - start <= n_free else len(part)
            if self.is_evicted and self.sequence.n_cells + n_next > n_free:
                self._make_room_for(N_ANSWER if n_tokens == 1 else max(n_next + n_behind, CHUNK - self._n_working))
            first = n_before + start
            self.cache.read(part, None if self.scores is None else self.scores[first : first + len(part)])

    def _put_off(self, ending: Tokens[int], n_answer: int, evict: Callable[[], None]) -> None:
        """Have what was read evicted when the answer has begun, behind `ending`, see `DueEviction`."""
        self._beginning.put_off(ending, n_answer, self.policy.n_foreseen, evict)

    def _evict_or_forget(self) -> None:
        """Do the eviction that is due; if it fails, the sequence is empty, as if nothing had been read."""
        with contextlib.suppress(DapqError):
            self._beginning.evict()

    def _make_room_for(self, n_next: int) -> None:
        """Evict while tokens are appended, so that `n_next` more have room: of an answer, or of a prompt."""
        if self._is_answering:
            # for another answer, or the same one with other white space
            self._conversations.keep(self.cache)
            self._is_answering = False
        with self.cache.before([], n_next + self._n_working):
            self._evict(self.policy.while_reading)

    @property
    def _n_kept(self) -> int:
        """Cells that an eviction keeps at most, in the layer that keeps most."""
        return math.ceil(self.budget.n_limit * self.policy.max_share)

    @property
    def _n_working(self) -> int:
        """Free cells that an eviction needs."""
        return self.policy.n_probe + self.policy.n_branch(self.budget.n_limit)

    def _evict(self, policy: Policy) -> None:
        if policy.evict(self.cache, self.budget.n_start, self.budget.n_limit):
            self._n_evictions += 1
            if self._one_shot:
                self.cache.note_document(True)

    # answers

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
            if i + 1 == n_predict or self.n_tokens == self.n_ctx:
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
