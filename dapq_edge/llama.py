"""Drop-in for `llama_cpp.Llama`, with a KV cache that is evicted to a budget."""

import contextlib
import math
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from . import native
from .budgets import AUTO, Budget
from .cache import Record
from .context import N_CTX_PAD, pad
from .errors import AbortedError, TooLongError, UnsupportedModelError, UsageError
from .grammar import GrammarSampler, check_grammar
from .heads import HeadProfile, find_profile
from .planner import auto_budget
from .policies import DEFAULT_POLICY, Policy, get_policy
from .policies.full import Full
from .prompts import N_QUESTION, N_SHORT, longest_message, split_prompt
from .reader import CHUNK, Progress
from .reader import plan as make_plan
from .reading import ReadingLlama
from .recall import serves
from .shape import check_eviction

# options of `llama_cpp.Llama` that fill the cache in other ways than with tokens
NOT_EVICTED = ("embedding", "vocab_only", "chat_handler")

# free cells that an answer has before its conversation is evicted again
N_ANSWER = CHUNK // 2


@dataclass(frozen=True)
class Usage:
    """What the sequence takes now, and what was done since the model was opened.

    n_tokens: of the text; n_cells_used, bytes_used: of the sequence; n_cells, bytes_allocated: of the context.
    held: of the last eviction, see `ReadStats`.
    """

    n_tokens: int
    n_cells_used: int
    n_cells: int
    bytes_used: int
    bytes_allocated: int
    n_evictions: int
    n_rereads: int
    held: float | None


@dataclass(frozen=True)
class Eviction:
    """What a saved state needs beside what llama.cpp saves; see `ReadingLlama` and `KVCache`.

    logits: of the last token before the last eviction, float32 [n_vocab], or None before the first one. has_document:
    whether the text is worth to be read again for a question.
    """

    record: Record
    n_skipped: int
    places: npt.NDArray[np.intp]
    logits: npt.NDArray[np.float32] | None
    has_document: bool


class Llama(ReadingLlama):
    """`llama_cpp.Llama` whose KV cache is evicted to a budget, so that long prompts fit little memory.

    All arguments and methods are those of `llama_cpp.Llama` 0.3.36, see `ReadingLlama` for their types; n_ctx counts
    the tokens of prompt and answer, and the cells follow from the budget. A prompt within the budget is answered
    exactly as there. A longer one is read in bounded memory, and one that begins as the last one did costs only its new
    end. If the kept cells do not serve a new question, the prompt is read again for it, see `recall.serves`.

    kv_budget: cells to keep, or "25%" of n_ctx, "auto" for what the free memory has room for, or None to never evict.
    policy: a name of `policies.POLICIES`. heads: a head profile; default: the one that was calibrated, if there is one.
    Embedding models and chat handlers for images are never evicted.

    Raises `ModelError` if the file is no model that llama.cpp can load, `UnsupportedModelError` if the model cannot be
    evicted, and `UsageError` if an argument is wrong.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        kv_budget: str | int | None = AUTO,
        policy: str = DEFAULT_POLICY,
        heads: HeadProfile | None = None,
        n_ctx: int = 512,
        n_batch: int = 512,
        flash_attn: bool | str = False,
        verbose: bool = True,
        **options: Any,
    ) -> None:
        self._is_evicted = False
        self._n_evictions = self._n_rereads = 0
        self._held: float | None = None
        self._logits: npt.NDArray[np.float32] | None = None
        self._has_document = False
        self._should_abort: Callable[[], bool] = lambda: False
        self.progress: Progress = lambda done, total: None
        can_evict = kv_budget is not None and not any(options.get(name) for name in NOT_EVICTED)
        if can_evict and kv_budget != AUTO and policy != Full.name:
            check_eviction(Path(model_path))
        options |= {"n_batch": n_batch, "flash_attn": flash_attn, "verbose": verbose}
        # a small context, until it is known what the budget needs
        super().__init__(model_path, n_ctx=max(N_CTX_PAD, n_batch) if can_evict else n_ctx, **options)
        self._heads = heads or find_profile(Path(model_path))
        self._defaults = kv_budget, policy
        self._eviction: tuple[str | int | None, str] = None, ""
        self._n_text = pad(n_ctx or self.n_ctx_train)
        if can_evict:
            if self._logits_all:
                self.scores = np.ndarray((self._n_text, self._n_vocab), dtype=np.single)
            self.set_eviction()

    def n_ctx(self) -> int:
        """Tokens of prompt and answer at most."""
        return self._n_text if self._is_evicted else super().n_ctx()

    def set_eviction(self, kv_budget: str | int | None = None, policy: str | None = None) -> None:
        """Choose how the next prompts are evicted; None for what the model was opened with.

        A change opens a new, empty context. Raises `UsageError`, `UnsupportedModelError` if the model cannot be
        evicted in this way, and as `open_context` does.
        """
        default_budget, default_policy = self._defaults
        if default_budget is None:
            return
        wanted = kv_budget if kv_budget is not None else default_budget, policy or default_policy
        if wanted == self._eviction:
            return
        self._policy = get_policy(wanted[1], heads=self._heads)
        self._budget = self._fixed_budget(wanted[0])
        self._is_evicted = self._budget.n_most < self._n_text
        # whatever happens now, the next call starts afresh
        self._eviction = None, ""
        self.open_context(self._n_needed(), self._n_text)
        self._n_ctx = self._n_text
        self._eviction = wanted

    def extend(self, n_ctx: int) -> None:
        """Make room for a text of `n_ctx` tokens. What is in the cache is lost if it could not be evicted so far."""
        if n_ctx <= self.n_ctx():
            return
        self._n_text = pad(n_ctx)
        if self._logits_all:
            self.scores = np.resize(self.scores, (self._n_text, self._n_vocab))
        if self._is_evicted:
            self._n_ctx = self._n_text
            self.input_ids.resize(self._n_text, refcheck=False)
        else:
            self._eviction = None, ""
            self.set_eviction()

    def _fixed_budget(self, kv_budget: str | int) -> Budget:
        """Cells to keep, and at most, of a text of any length."""
        n_text, policy = self._n_text, self._policy
        everything = Budget(n_text, False, n_text)
        try:
            policy.check(self.kv_cache)
        except UnsupportedModelError:
            if kv_budget == AUTO:
                return everything
            raise
        if not policy.reads_in_chunks:
            raise UsageError(f"--policy {policy.name} cannot read in bounded memory")
        if kv_budget == AUTO:
            budget = auto_budget(Path(self.model_path), self.ram, n_text, *self.cache_types, self.n_batch)
        else:
            budget = Budget.parse(str(kv_budget))
        n_keep = policy.cells_to_keep(budget, n_text)
        return Budget(n_keep, False, min(max(n_keep, budget.n_most), n_text))

    def _n_needed(self) -> int:
        """Cells of the context."""
        if not self._is_evicted:
            return self._n_text
        n_most, policy = math.ceil(self._budget.n_most * self._policy.max_share), self._policy
        return min(n_most + CHUNK, self._n_text + policy.n_probe) + policy.n_branch(n_most)

    @property
    def usage(self) -> Usage:
        """What the sequence takes now."""
        used, allocated = self._used(), self._allocated()
        return Usage(
            n_tokens=self.n_tokens,
            n_cells_used=used[0],
            n_cells=allocated[0],
            bytes_used=used[1],
            bytes_allocated=allocated[1],
            n_evictions=self._n_evictions,
            n_rereads=self._n_rereads,
            held=self._held,
        )

    def set_abort(self, should_abort: Callable[[], bool] | None) -> None:
        """Ask `should_abort` before each part of a prompt and each token; when it says so, raise `AbortedError`."""
        self._should_abort = should_abort or (lambda: False)

    def generate(
        self, tokens: Sequence[int], *args: Any, reset: bool = True, **options: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """Tokens that follow a prompt, as `llama_cpp.Llama.generate`."""
        tokens = list(tokens)
        if reset and self._is_evicted:
            try:
                tokens, reset = self._prepare(tokens)
            except BaseException:
                self.reset()
                raise
        made = super().generate(tokens, *args, reset=reset, **options)
        with contextlib.closing(made), contextlib.suppress(StopIteration):
            sent = yield made.send(None)
            while self.n_tokens < self.n_ctx():
                sent = yield made.send(sent)
            # llama-cpp-python counts no tokens in the middle of a character, and would go on
            if self.token_eos() >= 0:
                yield self.token_eos()

    def _init_sampler(self, *args: Any, grammar: llama_cpp.LlamaGrammar | None = None, **options: Any) -> Any:
        if grammar is None:
            return super()._init_sampler(*args, **options)
        check_grammar(self._model, grammar)
        return GrammarSampler(super()._init_sampler(*args, grammar=grammar, **options), self._n_vocab)

    def _prepare(self, tokens: list[int]) -> tuple[list[int], bool]:
        """Bring a prompt into the cache; the tokens that are left to evaluate, and whether they begin a new one."""
        cache = self.kv_cache
        if cache.next_position != len(cache.tokens):
            # it was interrupted
            self.reset()
        n_old, n_new = self._same(tokens)
        is_cut = n_old < self.n_tokens or (n_new == len(tokens) and self._requires_eval)
        if n_old < self._n_fixed or (is_cut and cache.is_recurrent):
            self.reset()
            n_old = n_new = 0
        is_lossy = self._n_fixed > 0
        if not is_lossy and len(tokens) <= self._budget.n_most:
            return tokens, True
        rest = self._cut(n_old, tokens[n_new:])
        if not self._fits(len(rest)):
            self._read_again(tokens)
            return [], False
        self.eval(rest)
        if is_lossy and self._can_need_document(rest) and not self._serves(rest):
            self._n_rereads += 1
            self._read_again(tokens)
        elif cache.n_used > self._budget.n_most + (N_ANSWER if is_lossy else 0):
            self._evict(self._policy)
        return [], False

    def _can_need_document(self, message: list[int]) -> bool:
        """Whether it may be worth to read again for a message; a remark ("Thanks!") has too few tokens to be."""
        return self._policy.skims and self._has_document and longest_message(self, message) >= N_SHORT

    def _serves(self, question: list[int]) -> bool:
        """Whether the kept cells answer a question that was just evaluated."""
        return serves(self.kv_cache, question, self._policy)

    @property
    def _n_fixed(self) -> int:
        """First tokens of the text that only stay or go together, because some of them are lost."""
        cache = self.kv_cache
        return max(cache.n_gathered, len(self.places) if self.n_skipped else 0) + self.n_skipped

    def _same(self, tokens: list[int]) -> tuple[int, int]:
        """How many tokens of the sequence, and of `tokens`, begin with the same text."""
        old = self.input_ids[: self.n_tokens]
        n_both = min(len(old), len(tokens))
        is_other = np.flatnonzero(old[:n_both] != np.array(tokens[:n_both], dtype=old.dtype))
        n_same = int(is_other[0]) if is_other.size else n_both
        if n_same == n_both or self._logits_all:
            return n_same, n_same
        # an answer, when it comes back as a part of the next prompt, may be other tokens of the same text
        text = self.detokenize(old[n_same:].tolist(), special=True)
        for n_new in range(n_same + 1, len(tokens) + 1):
            new = self.detokenize(tokens[n_same:n_new], special=True)
            if not text.startswith(new):
                break
            if new == text:
                return len(old), n_new
        return n_same, n_same

    def _cut(self, n_tokens: int, rest: list[int]) -> list[int]:
        """Forget all but the first tokens of the sequence; what is to be evaluated after them, to have logits."""
        if rest or (n_tokens == self.n_tokens and not self._requires_eval):
            n_more = 0
        elif n_tokens > self._n_fixed:
            n_more = 1
        else:
            n_more = 0
            self._requires_eval = False
            self.kv_cache.logits[:] = self._logits
        again = self.input_ids[n_tokens - n_more : n_tokens].tolist()
        self.n_tokens = n_tokens - n_more
        self.kv_cache.truncate(self.n_tokens - self.n_skipped)
        return again + rest

    def _fits(self, n_tokens: int) -> bool:
        """Whether so many tokens can be evaluated next, and then be evicted."""
        cache = self.kv_cache
        n_positions = len(cache.tokens) + n_tokens + N_ANSWER
        has_positions = self._n_text <= self.n_ctx_train or n_positions <= self.n_ctx_train
        # what is beyond the budget can be evicted before
        n_used = min(cache.n_used, self._budget.n_most)
        has_cells = n_used + n_tokens + self._n_working <= native.n_cells(self._ctx.ctx)
        return has_positions and (has_cells or not self._policy.skims)

    @property
    def _n_working(self) -> int:
        """Free cells that an eviction needs."""
        return self._policy.n_probe + self._policy.n_branch(self._budget.n_most)

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after the sequence, as `llama_cpp.Llama.eval`; where the cells are used up, evict."""
        self._report(0, len(tokens))
        if not self._is_evicted:
            super().eval(tokens)
            return
        if self.n_tokens + len(tokens) > self._n_text:
            raise TooLongError(f"the context of {self._n_text} tokens is full")
        n_free = native.n_cells(self._ctx.ctx) - self._n_working
        fits = self.kv_cache.n_used + len(tokens) <= n_free
        n_part = self.n_batch if fits else min(self.n_batch, CHUNK - self._policy.n_probe)
        for start in range(0, len(tokens), n_part):
            part = list(tokens[start : start + n_part])
            self._report(start, len(tokens))
            if self.kv_cache.n_used + len(part) > n_free:
                self._evict(self._policy.while_reading)
            super().eval(part)

    def _evict(self, policy: Policy) -> None:
        self._logits = self.kv_cache.logits.copy()
        self._held = policy.evict(self.kv_cache, int(self._budget.amount), self._budget.n_most)
        self._n_evictions += 1

    def _report(self, done: int, total: int) -> None:
        if self._should_abort():
            raise AbortedError("it was stopped")
        self.progress(done, total)

    def _read_again(self, tokens: list[int]) -> None:
        """Read the whole prompt."""
        self.reset()
        if self._logits_all:
            # the logits of all tokens are wanted
            self.eval(tokens)
            self._evict(self._policy)
            return
        half = int(self._budget.amount) // 2
        # small talk is not worth to be read again
        self._has_document = longest_message(self, tokens) > max(N_QUESTION, half)
        prompt = split_prompt(self, tokens, min(N_QUESTION, half))
        plan = make_plan(prompt, self._policy, self._budget, n_predict=N_ANSWER, n_ctx_train=self.n_ctx_train)
        self.last_read = self._read(prompt, self._policy, plan, self._report)
        self._logits = self.kv_cache.logits.copy()
        self._held = self.last_read.held
        self._n_evictions += 1

    def _create_completion(self, *args: Any, **options: Any) -> Iterator[Any]:
        try:
            yield from super()._create_completion(*args, **options)
        except ValueError as error:
            if not str(error).startswith("Requested tokens"):
                raise
            # the window that llama.cpp knows is the one of the cells
            raise TooLongError(re.sub(r"\d+$", str(self.n_ctx()), str(error))) from error

    def save_state(self) -> llama_cpp.LlamaState:
        """As `llama_cpp.Llama.save_state`, with what was evicted."""
        state = super().save_state()
        state.eviction = self.eviction
        return state

    def load_state(self, state: llama_cpp.LlamaState) -> None:
        """As `llama_cpp.Llama.load_state`; also what `llama_cpp.Llama.save_state` made."""
        tokens = state.input_ids[: state.n_tokens]
        plain = Eviction(Record(tokens.tolist(), [], 0), 0, np.arange(0), None, False)
        super().load_state(state)
        self.set_sequence(tokens, getattr(state, "eviction", plain))

    @property
    def eviction(self) -> Eviction:
        """What was evicted of the sequence."""
        return Eviction(self.kv_cache.record, self.n_skipped, self.places, self._logits, self._has_document)

    def set_sequence(self, tokens: npt.NDArray[np.intc], eviction: Eviction) -> None:
        """Say what the cells of llama.cpp hold, after they were loaded."""
        self.n_tokens = len(tokens)
        self.input_ids[: self.n_tokens] = tokens
        self._requires_eval = True
        self.kv_cache.record = eviction.record
        self._set_skipped(eviction.n_skipped, eviction.places)
        self._logits, self._has_document = eviction.logits, eviction.has_document

    def __getstate__(self) -> dict[str, Any]:
        kv_budget, policy = self._defaults
        return {
            **super().__getstate__(),
            "n_ctx": self._n_text,
            "kv_budget": kv_budget,
            "policy": policy,
            "heads": self._heads,
        }
