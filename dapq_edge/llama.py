"""Drop-in for `llama_cpp.Llama`, with a KV cache that is evicted to a budget: an adapter over the engine."""

import contextlib
import secrets
import weakref
from collections.abc import Generator, Sequence
from dataclasses import replace
from inspect import signature
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
from .llamacpp.compat import GuardedLlama, is_end, is_logits_all
from .llamacpp.model import Model, loading, model_options, set_flash_attn
from .planning.gguf_shape import check_eviction
from .planning.ram import CACHE_RAM
from .planning.weights import check_gguf
from .prompt.call_reader import CallReader, begins_thought
from .prompt.messages import ChatPrompt, chat_tokens
from .prompt.tools import call_forms, call_schema, control_marks, stream_with_calls, with_calls, with_ends
from .reading.ahead import Ahead
from .reading.engine import Engine
from .reading.open_model import memory_before_loading
from .reading.open_store import STORE_SIZE, open_store
from .reading.plan import SkimMode, skim_mode
from .reading.relevance import Serves, serves
from .reading.stats import Usage
from .reading.strategies import GoesOn
from .reading.timings import Timings
from .store.types import STORE_TYPES

# options of `llama_cpp.Llama` that fill the cache in other ways than with tokens
NOT_EVICTED = ("embedding", "vocab_only", "chat_handler")

# questions of any kind, that have nothing in common: what is read before both does not depend on the question
PLACEHOLDERS = "What does it say?", "Why so?"

# arguments of a chat that its template is given
TOOLS = ("functions", "function_call", "tools", "tool_choice")


class Llama(GuardedLlama):
    """`llama_cpp.Llama` whose KV cache is evicted to a budget, so that long prompts fit little memory.

    All arguments and methods are those of `llama_cpp.Llama` 0.3.36, but n_batch is at least 64, type_k and type_v can
    be names as in llama.cpp ("q8_0"), and flash_attn can be "auto", "on" or "off", too. n_ctx counts the tokens of
    prompt and answer, and the cells follow from the budget. A prompt within the budget is answered exactly as there. A
    longer one is read in bounded memory, and one that begins as the last one did costs only its new end. If the kept
    cells do not serve a new question, the prompt is read again for it. Embedding models and chat handlers for images
    are never evicted.

    Args:
        model_path: A GGUF file.
        kv_budget: Cells to keep, "25%" of n_ctx, "auto" for what the free memory has room for, a `Budget`, or None to
            never evict.
        policy: A name of `all_policies`, or a policy.
        heads: A head profile; default: the one that was calibrated, if there is one.
        serves: Says whether the kept cells answer a new question, see `relevance.serves`.
        one_shot: Evict only when everything is read.
        skim: "auto" to stop reading a document when what is asked for is found by its words, or "all".
        store: Folder that keeps what is read of documents, so that another question need not read it again.
        store_size: Bytes of all files in it, at most.
        store_type: Of K and V of windows in the files: "q8_0", or "f16" to keep them to the bit.
        cache_ram: MiB of memory for conversations that were left and may go on, at most an eighth of what is free.

    Attributes:
        control: Watches and stops what is called next.
        goes_on: Told all chunks of a document that does not fit the budget, says whether the most relevant ones are
            read; if not, `NotReadError` is raised. None to read them.
        timings: Tokens and seconds of the last answer, or of the one that is written.

    Raises `ModelError` if the file is no model that llama.cpp can load, `UnsupportedModelError` if the model cannot be
    evicted, `UsageError` if an argument is wrong, and `DapqError` if there can be no store.
    """

    goes_on: GoesOn | None = None
    _engine: Engine | None = None
    _chat: ChatPrompt | None = None
    _ids_of: Ledger | None = None
    _ids: npt.NDArray[np.intc]

    def __init__(
        self,
        model_path: str | Path,
        *,
        kv_budget: str | int | Budget | None = "auto",
        policy: str | Policy = DEFAULT_POLICY,
        heads: HeadProfile | None = None,
        serves: Serves = serves,
        one_shot: bool = False,
        skim: SkimMode | str = SkimMode.AUTO,
        store: str | Path | None = None,
        store_size: int = STORE_SIZE,
        store_type: str = STORE_TYPES[0],
        cache_ram: int = CACHE_RAM,
        n_ctx: int = 512,
        flash_attn: bool | str = False,
        seed: int = llama_cpp.LLAMA_DEFAULT_SEED,
        verbose: bool = True,
        **options: Any,
    ) -> None:
        self.control, self.timings = UNCONTROLLED, Timings()
        path, is_plain = check_gguf(Path(model_path)), any(options.get(name) for name in NOT_EVICTED)
        budget = None if kv_budget is None else parse_budget(kv_budget)
        heads = heads or find_profile(path)
        chosen = get_policy(policy, heads=heads)
        if not is_plain and budget not in (None, Auto()) and not isinstance(chosen, Full):
            check_eviction(path)
        ram = memory_before_loading(options.get("n_gpu_layers", 0))
        options = model_options(flash_attn=flash_attn, **options)
        # a small context, until it is known what the budget needs
        first = n_ctx if is_plain else max(N_CTX_PAD, options["n_batch"])
        with loading(path, verbose):
            super().__init__(str(path), n_ctx=first, seed=seed, verbose=verbose, **options)
        # the constructor takes a seed of 0 for none, and draws the same ones after each start
        self.set_seed(secrets.randbits(32) if seed == llama_cpp.LLAMA_DEFAULT_SEED else seed)
        set_flash_attn(self, flash_attn)
        self._defaults, self._heads = (budget, policy), heads
        self._study: dict[str, Any] = {
            "serves": serves,
            "one_shot": one_shot,
            "skim": skim_mode(skim),
            "cache_ram": cache_ram,
        }
        self._shelf = {"store": store, "store_size": store_size, "store_type": store_type}
        if not is_plain:
            model, all_logits = Model(weakref.proxy(self)), is_logits_all(self)
            stored = None if store is None else open_store(model, store, store_size, store_type)
            self._engine = Engine(model, self._heads, ram=ram, all_logits=all_logits, store=stored, **self._study)
            self._engine.configure(chosen, budget, pad(n_ctx or model.n_ctx_train))

    @property
    def heads(self) -> HeadProfile | None:
        """The head profile that is used, if there is one."""
        return self._heads

    @property
    def engine(self) -> Engine:
        """The engine that brings prompts into the cache. Raises `UsageError` for a model that is never evicted."""
        if self._engine is None:
            raise UsageError("this model is opened for embeddings or images, and is never evicted")
        return self._engine

    @property
    def kv_cache(self) -> KVCache:
        """The cells of the sequence, and its ledger."""
        return self.engine.cache

    @property
    def usage(self) -> Usage:
        """Memory that the sequence takes now."""
        return self.engine.usage

    @property
    def cache_types(self) -> tuple[str, str]:
        """Names of the types of K and V, see `context.CACHE_TYPES`."""
        return self.engine.model.cache_types

    def kept(self, layer: int | None = None) -> list[tuple[str, float]]:
        """Return pieces of the text, and the share of the heads that have each of them, see `Engine.kept`."""
        return self.engine.kept(layer)

    def set_eviction(self, kv_budget: str | int | Budget | None = None, policy: str | Policy | None = None) -> None:
        """Choose how the next prompts are evicted; None for what the model was opened with.

        A change opens a new, empty context. Raises `UsageError`, `UnsupportedModelError` if the model cannot be evicted
        in this way, and as `Engine.configure` does; nothing is changed then.
        """
        budget, default = self._defaults
        if kv_budget is not None:
            budget = parse_budget(kv_budget)
        if self._engine is None and (budget, policy or default) == self._defaults:
            return
        chosen = get_policy(policy or default, heads=self._heads)
        if self.engine.wanted != (chosen, budget):
            self.engine.configure(chosen, budget)

    def extend(self, n_ctx: int) -> None:
        """Make room for a text of `n_ctx` tokens. What is in the cache is lost if it could not be evicted so far."""
        if n_ctx > self.n_ctx():
            self.engine.extend(pad(n_ctx))

    def close(self) -> None:
        """Put the conversations into the store, free the model and its context, and close the store."""
        if self._engine:
            self._engine.put_away()
        self._free()

    def __del__(self) -> None:
        # what is gone already can be saved no more
        self._free()

    def _free(self) -> None:
        super().close()
        if self._engine and self._engine.store:
            self._engine.store.catalog.close()

    def reset(self) -> None:
        """Forget the sequence."""
        self._engine.reset() if self._engine else super().reset()

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after the sequence, as `llama_cpp.Llama.eval`; where the cells are used up, evict."""
        self._engine.append(tokens, self.control) if self._engine else super().eval(tokens)

    def generate(
        self, tokens: Sequence[int], *args: Any, reset: bool = True, **options: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """Generate the tokens that follow a prompt, as `llama_cpp.Llama.generate`."""
        tokens, self.timings = list(tokens), Timings(len(tokens))
        if self._engine and reset:
            # a grammar is refused before a prompt is read
            self.check_grammar(options.get("grammar"))
            chat = self._chat if self._chat and self._chat.tokens == tokens else None
            self._shown = chat.shown if chat else frozenset()
            self._engine.prefill(tokens, self.control, chat.messages if chat else None, self.goes_on)
            self.timings.n_cached = min(self._engine.n_cached, len(tokens))
            tokens, reset = [], False
        yield from self._timed(super().generate(tokens, *args, reset=reset, **options))

    def _timed(self, made: Generator[int, Sequence[int] | None, None]) -> Generator[int, Sequence[int] | None, None]:
        """Yield tokens, and count them."""
        timings, sent = self.timings, None
        with contextlib.closing(made), contextlib.suppress(StopIteration):
            token = made.send(None)
            timings.note_prompt()
            while True:
                if not is_end(self, token):
                    timings.note_token()
                sent = yield token
                token = made.send(sent)

    def create_chat_completion(self, messages: list[dict[str, Any]], *args: Any, **options: Any) -> Any:
        """Answer messages, as `llama_cpp.Llama.create_chat_completion`, but what stands in a message is text.

        No control token comes out of a message, and what a chat template cannot write is said, see `chat_tokens`. Calls
        of tools, in the form that the chat template knows, are in `tool_calls`, see `CallReader`.
        """
        arguments = signature(super().create_chat_completion).bind(messages, *args, **options).arguments
        if not self._engine or not self.has_chat_template:
            return super().create_chat_completion(**arguments)
        model, is_stream = self.engine.model, bool(arguments.get("stream"))
        params = {name: arguments[name] for name in TOOLS if arguments.get(name) is not None}
        tools, choice = params.get("tools", []), arguments.get("tool_choice") or "auto"
        forms = call_forms(choice, tools, model.chat_template or "")
        chat = replace(chat_tokens(model, self.render_chat, messages, params), shown=control_marks(model, forms))
        arguments |= chat.accepted
        if choice == "required":
            arguments["response_format"] = {"type": "json_object", "schema": call_schema(tools)}

        def tokens(text: str, add_bos: bool) -> list[int]:
            self._chat = chat
            return chat.tokens

        if not forms:
            return self.answer_chat(tokens, **arguments)
        made = self.answer_chat(tokens, **{**arguments, "stop": with_ends(arguments.get("stop"), forms)})
        reader = CallReader(forms, tools, thinks=begins_thought(model, chat.tokens))
        return stream_with_calls(made, reader) if is_stream else with_calls(made, reader)

    def read_ahead(self, messages: list[dict[str, Any]]) -> Ahead:
        """Read what is known of a chat before its next question, so that the question need not wait for it.

        A text that fits whole goes into the cache, the windows of a longer one into the store. A reading that `control`
        stops goes on where it was.

        Args:
            messages: As for `create_chat_completion`; the last one is the user's, and its question will come behind it.

        Raises `UsageError` if the chat template cannot write them, and as `Engine.prefill_ahead` does.
        """
        if not self._engine or not self.has_chat_template:
            return Ahead()
        *before, last = messages
        chats = []
        for question in PLACEHOLDERS:
            content = "\n\n".join(text for text in (last["content"], question) if text)
            asked = [*before, {**last, "content": content}]
            chats.append(chat_tokens(self.engine.model, self.render_chat, asked))
        n_known = Ledger().append(chats[0].tokens).n_same(chats[1].tokens)
        return self.engine.prefill_ahead(chats[0].tokens, n_known, self.control, chats[0].messages)

    def fits(self, messages: list[dict[str, Any]]) -> bool:
        """Return whether a chat is read at once, so that its answer is from all of it."""
        if not self._engine or not self.has_chat_template:
            return True
        chat = chat_tokens(self.engine.model, self.render_chat, messages)
        return self.engine.fits_configured(chat.tokens, chat.messages)

    def save_state(self) -> llama_cpp.LlamaState:
        """Return a state as `llama_cpp.Llama.save_state` does, with what was evicted."""
        # what the answer has is read before it is saved
        sequence = self._engine.sequence if self._engine else None
        state = super().save_state()
        state.sequence = sequence
        return state

    def load_state(self, state: llama_cpp.LlamaState) -> None:
        """Put a state back, as `llama_cpp.Llama.load_state` does; also one that `llama_cpp.Llama.save_state` made."""
        if not self._engine:
            super().load_state(state)
            return
        sequence = getattr(state, "sequence", None) or Ledger().append(state.input_ids[: state.n_tokens])
        cells = np.frombuffer(state.llama_state, dtype=np.uint8)
        self._engine.cache.restore(SequenceState(sequence, None, cells, is_context=True))
        if self._engine.scores is not None:
            self._engine.scores[: len(state.scores)] = state.scores
        self.set_seed(state.seed)

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        budget, policy = self._defaults
        eviction = {"n_ctx": self.n_ctx(), "kv_budget": budget, "policy": policy, "heads": self._heads}
        return {**super().__getstate__(), **eviction, **self._study, **self._shelf}

    # what llama-cpp-python keeps itself follows from the ledger

    def n_ctx(self) -> int:
        """Return the tokens of prompt and answer at most."""
        return self._engine.n_ctx if self._engine else super().n_ctx()

    @property
    def n_tokens(self) -> int:
        """Tokens of the sequence; to set it forgets the last ones."""
        return self._engine.n_tokens if self._engine else self._n_plain

    @n_tokens.setter
    def n_tokens(self, n_tokens: int) -> None:
        self._n_plain = n_tokens
        if self._engine:
            self._engine.truncate(n_tokens)

    @property
    def input_ids(self) -> npt.NDArray[np.intc]:
        """Tokens of the sequence, and room for others: int32 [n_ctx]."""
        if self._engine and len(self._ids) < self._engine.n_ctx:
            self._ids, self._ids_of = np.zeros(self._engine.n_ctx, dtype=np.intc), None
        written = self._engine.unsettled.sequence if self._engine else None
        if written is not None and self._ids_of is not written:
            self._ids_of = written
            self._ids[: written.n_tokens] = written.text
        return self._ids

    @input_ids.setter
    def input_ids(self, ids: npt.NDArray[np.intc]) -> None:
        self._ids, self._ids_of = ids, None

    @property
    def scores(self) -> npt.NDArray[np.single]:
        """Logits of all tokens, if they are kept: float32 [n_ctx, n_vocab]."""
        return self._scores_plain if self._engine is None or self._engine.scores is None else self._engine.scores

    @scores.setter
    def scores(self, scores: npt.NDArray[np.single]) -> None:
        self._scores_plain = scores
