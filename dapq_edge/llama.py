"""Drop-in for `llama_cpp.Llama`, with a KV cache that is evicted to a budget: an adapter over the engine."""

import contextlib
import weakref
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from .cache.kv_cache import KVCache
from .cache.sequence import Sequence as Ledger
from .cache.state import SequenceState
from .cells import N_CTX_PAD, pad
from .control import UNCONTROLLED
from .errors import UsageError
from .eviction.budget import Auto, Budget, parse_budget
from .eviction.heads import HeadProfile, find_profile
from .eviction.policies import DEFAULT_POLICY, Full, Policy, get_policy
from .llamacpp import compat
from .llamacpp.model import Model, loading, model_options, set_flash_attn
from .planning.gguf_shape import check_eviction
from .planning.weights import check_gguf
from .reading.engine import Engine
from .reading.open_model import memory_before_loading
from .reading.relevance import Serves, serves
from .reading.stats import Usage

# options of `llama_cpp.Llama` that fill the cache in other ways than with tokens
NOT_EVICTED = ("embedding", "vocab_only", "chat_handler")


class Llama(compat.GuardedLlama):
    """`llama_cpp.Llama` whose KV cache is evicted to a budget, so that long prompts fit little memory.

    All arguments and methods are those of `llama_cpp.Llama` 0.3.36, but n_batch is at least 64, type_k and type_v can
    be names as in llama.cpp ("q8_0"), and flash_attn can be "auto", "on" or "off", too. n_ctx counts the tokens of
    prompt and answer, and the cells follow from the budget. A prompt within the budget is answered exactly as there. A
    longer one is read in bounded memory, and one that begins as the last one did costs only its new end. If the kept
    cells do not serve a new question, the prompt is read again for it, see `relevance.serves`.

    Args:
        model_path: A GGUF file.
        kv_budget: Cells to keep, "25%" of n_ctx, "auto" for what the free memory has room for, a `Budget`, or None to
            never evict.
        policy: A name of `all_policies`, or a policy.
        heads: A head profile; default: the one that was calibrated, if there is one.
        serves: Says whether the kept cells answer a new question.
        one_shot: Evict only when everything is read.

    Embedding models and chat handlers for images are never evicted.

    Attributes:
        engine: Brings prompts into the cache; None for models that are never evicted.
        control: Watches and stops what is called next.

    Raises `ModelError` if the file is no model that llama.cpp can load, `UnsupportedModelError` if the model cannot be
    evicted, and `UsageError` if an argument is wrong.
    """

    engine: Engine | None = None

    def __init__(
        self,
        model_path: str | Path,
        *,
        kv_budget: str | int | Budget | None = "auto",
        policy: str | Policy = DEFAULT_POLICY,
        heads: HeadProfile | None = None,
        serves: Serves = serves,
        one_shot: bool = False,
        n_ctx: int = 512,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_gpu_layers: int = 0,
        flash_attn: bool | str = False,
        type_k: int | str | None = None,
        type_v: int | str | None = None,
        seed: int = llama_cpp.LLAMA_DEFAULT_SEED,
        verbose: bool = True,
        **options: Any,
    ) -> None:
        self.control = UNCONTROLLED
        path, is_plain = check_gguf(Path(model_path)), any(options.get(name) for name in NOT_EVICTED)
        wanted = None if kv_budget is None else parse_budget(kv_budget)
        if not is_plain and wanted not in (None, Auto()) and not isinstance(get_policy(policy), Full):
            check_eviction(path)
        ram = memory_before_loading(n_gpu_layers)
        options |= {"n_batch": n_batch, "n_ubatch": n_ubatch, "type_k": type_k, "type_v": type_v}
        with loading(path, verbose):
            super().__init__(
                str(path),
                # a small context, until it is known what the budget needs
                n_ctx=n_ctx if is_plain else max(N_CTX_PAD, n_batch),
                n_gpu_layers=n_gpu_layers,
                seed=seed,
                verbose=verbose,
                **model_options(flash_attn=flash_attn, **options),
            )
        # the constructor takes a seed of 0 for none
        self.set_seed(seed)
        set_flash_attn(self, flash_attn)
        self._defaults, self._heads = (wanted, policy), heads or find_profile(path)
        if not is_plain:
            self.engine = Engine(Model(weakref.proxy(self)), self._heads, ram=ram, serves=serves, one_shot=one_shot)
            self._configure(wanted, policy, pad(n_ctx or self.engine.model.n_ctx_train))

    # eviction

    def set_eviction(self, kv_budget: str | int | Budget | None = None, policy: str | Policy | None = None) -> None:
        """Choose how the next prompts are evicted; None for what the model was opened with.

        A change opens a new, empty context. Raises `UsageError`, `UnsupportedModelError` if the model cannot be evicted
        in this way, and as `Engine.configure` does; nothing is changed then.
        """
        budget, default_policy = self._defaults
        if kv_budget is not None:
            budget = parse_budget(kv_budget)
        if (kv_budget or policy) and self.engine is None:
            raise UsageError("this model is opened for embeddings or images, and is never evicted", param="kv_budget")
        if self.engine and (budget, policy or default_policy) != self._wanted:
            self._configure(budget, policy or default_policy, self.engine.n_ctx)

    def _configure(self, budget: Budget | None, policy: str | Policy, n_ctx: int) -> None:
        engine = self._engine
        engine.configure(get_policy(policy, heads=self._heads), budget, n_ctx)
        self._wanted = budget, policy
        self._fit_arrays()

    def extend(self, n_ctx: int) -> None:
        """Make room for a text of `n_ctx` tokens. What is in the cache is lost if it could not be evicted so far.

        Raises `UsageError` if the model is never evicted.
        """
        if n_ctx > self.n_ctx():
            self._engine.extend(pad(n_ctx))
            self._fit_arrays()

    def _fit_arrays(self) -> None:
        """Give the arrays of llama-cpp-python as many rows as the text has tokens."""
        n_ctx = self._engine.n_ctx
        compat.set_n_ctx(self, n_ctx)
        self._ids = np.zeros(n_ctx, dtype=np.intc)
        self._ids_of: Ledger | None = None
        if compat.is_logits_all(self):
            self.scores = self._engine.scores = np.zeros((n_ctx, self.n_vocab()), dtype=np.single)

    @property
    def _engine(self) -> Engine:
        if self.engine is None:
            raise UsageError("this model is opened for embeddings or images, and is never evicted")
        return self.engine

    @property
    def usage(self) -> Usage:
        """What the sequence takes now."""
        return self._engine.usage

    @property
    def kv_cache(self) -> KVCache:
        """The cells of the sequence, and its ledger."""
        return self._engine.cache

    @property
    def cache_types(self) -> tuple[str, str]:
        """Names of the types of K and V, see `context.CACHE_TYPES`."""
        return self._engine.model.cache_types

    def kept(self, layer: int | None = None) -> list[tuple[str, float]]:
        """Return pieces of the text, and the share of the heads that have each of them, see `Engine.kept`."""
        return self._engine.kept(layer)

    # what llama-cpp-python keeps itself, from the ledger

    def n_ctx(self) -> int:
        """Return the tokens of prompt and answer at most."""
        return self.engine.n_ctx if self.engine else super().n_ctx()

    @property
    def n_tokens(self) -> int:
        """Tokens of the sequence; to set it forgets the last ones."""
        return self.engine.sequence.n_tokens if self.engine else self._n_plain

    @n_tokens.setter
    def n_tokens(self, n_tokens: int) -> None:
        self._n_plain = n_tokens
        if self.engine:
            self.engine.truncate(n_tokens)

    @property
    def input_ids(self) -> npt.NDArray[np.intc]:
        """Tokens of the sequence, and room for others: int32 [n_ctx]."""
        if self.engine and self._ids_of is not self.engine.sequence:
            self._ids_of = self.engine.sequence
            self._ids[: self._ids_of.n_tokens] = self._ids_of.text
        return self._ids

    @input_ids.setter
    def input_ids(self, ids: npt.NDArray[np.intc]) -> None:
        self._ids = ids

    def reset(self) -> None:
        """Forget the sequence."""
        if self.engine:
            self.engine.reset()
        else:
            super().reset()

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after the sequence, as `llama_cpp.Llama.eval`; where the cells are used up, evict."""
        if self.engine:
            self.engine.append(tokens, self.control)
        else:
            super().eval(tokens)

    def generate(
        self, tokens: Sequence[int], *args: Any, reset: bool = True, **options: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """Generate the tokens that follow a prompt, as `llama_cpp.Llama.generate`."""
        if self.engine and reset:
            self.engine.prefill(tokens, self.control)
            tokens, reset = [], False
        made = super().generate(tokens, *args, reset=reset, **options)
        with contextlib.closing(made), contextlib.suppress(StopIteration):
            sent = yield made.send(None)
            while self.n_tokens < self.n_ctx():
                sent = yield made.send(sent)
            # llama-cpp-python counts no tokens in the middle of a character, and would go on
            if self.token_eos() >= 0:
                yield self.token_eos()

    # states

    def save_state(self) -> llama_cpp.LlamaState:
        """As `llama_cpp.Llama.save_state`, with what was evicted."""
        state = super().save_state()
        if self.engine:
            state.sequence = self.engine.cache.state().sequence
        return state

    def load_state(self, state: llama_cpp.LlamaState) -> None:
        """As `llama_cpp.Llama.load_state`; also what `llama_cpp.Llama.save_state` made."""
        if not self.engine:
            super().load_state(state)
            return
        sequence = getattr(state, "sequence", Ledger().append(state.input_ids[: state.n_tokens]))
        cells = np.frombuffer(state.llama_state, dtype=np.uint8)
        self.engine.cache.restore(SequenceState(sequence, None, cells, is_context=True))
        self.scores[: len(state.scores)] = state.scores
        self.set_seed(state.seed)

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        budget, policy = self._defaults
        eviction = {"n_ctx": self.n_ctx(), "kv_budget": budget, "policy": policy, "heads": self._heads}
        return {**super().__getstate__(), **eviction}
