"""A `llama_cpp.Llama` that reads one prompt into its cache, evicted to a budget, and answers."""

import codecs
import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from . import native
from .budgets import Budget
from .cache import KVCache
from .context import CACHE_TYPES, MIN_BATCH, N_CTX_PAD, ShiftedContext, pad, set_sequence_params
from .errors import DapqError, ModelError, UnsupportedModelError
from .memory import free_memory
from .models import check_gguf
from .policies import Policy
from .reader import Chunk, Plan, Progress, Prompt, Reader, Way
from .reader import plan as make_plan

FLASH_ATTN = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


@dataclass(frozen=True)
class ReadStats:
    """How a prompt was read, see `reader.Plan`, and what it cost.

    is_compact: positions count only the tokens that were read after skimming.
    tokens_evaluated: with the chunks that were read twice and their questions. cells_peak, bytes_peak: cells of the
    context while it was read and their K and V, used or free. cells_kept, bytes_kept: of the prompt, after eviction.
    held: the share of the attention that the kept cells hold, see `scores.held`; None if nothing was evicted.
    """

    way: Way
    is_compact: bool
    chunks: list[Chunk]
    tokens_evaluated: int
    n_predict: int
    cells_peak: int
    cells_kept: int
    bytes_peak: int
    bytes_kept: int
    held: float | None
    evict_seconds: float
    seconds: float


class ReadingLlama(llama_cpp.Llama):
    """`llama_cpp.Llama` that can read one prompt by a policy into a context of its own.

    The arguments are those of `llama_cpp.Llama`, but n_batch is at least 64, type_k and type_v can be names as in
    llama.cpp ("q8_0"), and flash_attn can be "auto", "on" or "off", too.

    ram: bytes of memory that were free before the model was loaded.
    n_skipped: tokens of the text before the next one that were not read, so that they have no positions.
    places: which token of the text each of the first tokens that were read is: integers [tokens].

    Raises `ModelError` if the file is no model that llama.cpp can load.
    """

    # what is closed in the end, if the constructor fails early
    _stack = contextlib.ExitStack()

    def __init__(
        self,
        model_path: str | Path,
        *,
        n_ctx: int = 512,
        n_gpu_layers: int = 0,
        n_batch: int = 512,
        n_ubatch: int = 512,
        flash_attn: bool | str = "auto",
        type_k: int | str | None = None,
        type_v: int | str | None = None,
        seed: int = llama_cpp.LLAMA_DEFAULT_SEED,
        verbose: bool = False,
        **options: Any,
    ) -> None:
        check_gguf(Path(model_path))
        self.ram = free_memory(n_gpu_layers)
        flash_attn = flash_attn if isinstance(flash_attn, str) else "on" if flash_attn else "off"
        capture: AbstractContextManager[Sequence[str]] = nullcontext([]) if verbose else native.captured_log()
        with capture as log:
            try:
                super().__init__(
                    str(model_path),
                    n_ctx=n_ctx,
                    n_gpu_layers=n_gpu_layers,
                    n_batch=max(n_batch, MIN_BATCH),
                    n_ubatch=max(n_ubatch, MIN_BATCH),
                    flash_attn=flash_attn != "off",
                    type_k=CACHE_TYPES[type_k] if isinstance(type_k, str) else type_k,
                    type_v=CACHE_TYPES[type_v] if isinstance(type_v, str) else type_v,
                    seed=seed,
                    verbose=verbose,
                    **options,
                )
            except (ValueError, RuntimeError) as error:
                if "llama_context" in str(error):
                    raise DapqError(f"llama.cpp cannot open a context: {_cause(log, error)}") from error
                raise ModelError(f"llama.cpp cannot load {model_path}: {_cause(log, error)}") from error
        # the constructor takes a seed of 0 for none
        self.set_seed(seed)
        self.context_params.flash_attn_type = FLASH_ATTN[flash_attn]
        self._kv_cache = KVCache(self._ctx.ctx)
        self.n_skipped = 0
        self.places: npt.NDArray[np.intp] = np.arange(0)

    @property
    def n_ctx_train(self) -> int:
        """The context length that the model was trained with."""
        return self._model.n_ctx_train()

    @property
    def cache_types(self) -> tuple[str, str]:
        """Names of the types of K and V, see `CACHE_TYPES`."""
        names = {number: name for name, number in CACHE_TYPES.items()}
        return names[self.context_params.type_k], names[self.context_params.type_v]

    @property
    def kv_cache(self) -> KVCache:
        """The cache of the sequence that is read and decoded."""
        return self._kv_cache

    def open_context(self, n_cells: int, n_ctx: int = 0) -> None:
        """Open a new, empty context of at least `n_cells` cells instead of the current one.

        n_ctx: the tokens that are counted at most, if they are more than the cells. Raises `DapqError` if there is not
        enough memory, or if llama.cpp does not support the cache types.
        """
        set_sequence_params(self.context_params, n_cells)
        self._ctx.close()
        with native.captured_log() as log:
            try:
                self._use_context(self.context_params)
            except ValueError as error:
                cause = _cause(log, error)
                if "alloc" in cause:
                    cause = f"not enough memory ({cause}): lower -c, -n or --kv-budget, or set -ctk q8_0 -ctv q8_0"
                # the next prompt may need less
                small = llama_cpp.llama_context_default_params()
                small.n_ctx = N_CTX_PAD
                self._use_context(small)
                raise DapqError(f"llama.cpp cannot open a context of {pad(n_cells)} cells: {cause}") from error
        self._n_ctx = max(pad(n_cells), n_ctx)
        self.input_ids.resize(self._n_ctx, refcheck=False)
        self.reset()

    def _use_context(self, params: llama_cpp.llama_context_params) -> None:
        context = ShiftedContext(model=self._model, params=params, verbose=self.verbose)
        self._ctx = self._stack.enter_context(contextlib.closing(context))
        self._kv_cache = KVCache(self._ctx.ctx)
        if self._lora_adapter:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._lora_adapter)
            scales = (llama_cpp.ctypes.c_float * 1)(self.lora_scale)
            if llama_cpp.llama_set_adapters_lora(self._ctx.ctx, adapters, 1, scales):
                raise DapqError(f"llama.cpp cannot use the LoRA adapter {self.lora_path}")

    def reset(self) -> None:
        """Forget the sequence."""
        super().reset()
        self._kv_cache.clear()
        self._set_skipped(0, np.arange(0))

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after the sequence, as `llama_cpp.Llama.eval`."""
        del self._kv_cache.tokens[self.n_tokens - self.n_skipped :]
        super().eval(tokens)
        self._kv_cache.tokens += tokens

    def _set_skipped(self, n_skipped: int, places: npt.NDArray[np.intp]) -> None:
        self.n_skipped, self.places = n_skipped, places
        if isinstance(self._ctx, ShiftedContext):
            self._ctx.n_skipped = n_skipped

    def read(
        self,
        prompt: Prompt | Sequence[int],
        policy: Policy,
        budget: Budget,
        *,
        n_predict: int = 256,
        n_cells: int = 0,
        one_shot: bool = False,
        allow_overflow: bool = False,
        progress: Progress = lambda done, total: None,
    ) -> ReadStats:
        """Read a prompt into a new context and evict its cache to the budget, in bounded memory unless `one_shot`.

        The logits of the last token stay for `stream`, and room for `n_predict` tokens. The context has `n_cells`
        cells, or as many as are needed. Raises `DapqError` if they are too few or if llama.cpp fails, and as
        `reader.plan` and `Policy.evict` do.
        """
        prompt = prompt if isinstance(prompt, Prompt) else Prompt([], list(prompt), [], has_question=False)
        policy.check(self.kv_cache)
        plan = make_plan(
            prompt,
            policy,
            budget,
            n_predict=n_predict,
            n_ctx_train=self.n_ctx_train,
            one_shot=one_shot,
            allow_overflow=allow_overflow,
        )
        if 0 < n_cells < plan.n_cells:
            raise DapqError(f"reading needs {plan.n_cells:,} cells: raise -c {n_cells} or leave it out")
        self.open_context(max(n_cells, plan.n_cells), n_ctx=len(prompt) + plan.n_predict)
        stats = self._read(prompt, policy, plan, progress)
        n_needed = pad(stats.cells_kept + plan.n_predict)
        # bounded reading leaves no more than a chunk to give back
        if plan.way == Way.ALL and stats.cells_kept < len(prompt) and n_needed < stats.cells_peak:
            native.resize(self._ctx.ctx, n_needed)
        return stats

    def _read(self, prompt: Prompt, policy: Policy, plan: Plan, progress: Progress) -> ReadStats:
        """Read a prompt into the empty context as planned."""
        start = time.perf_counter()
        cells_peak, bytes_peak = self._allocated()
        reader = Reader(self.kv_cache, policy, plan, progress)
        reader.read(prompt)
        self.n_tokens = len(prompt)
        self.input_ids[: self.n_tokens] = prompt.tokens
        self._requires_eval = False
        self._set_skipped(self.n_tokens - self.kv_cache.next_position, reader.places)
        cells_kept, bytes_kept = self._used()
        return ReadStats(
            way=plan.way,
            is_compact=self.n_skipped > 0,
            chunks=reader.chunks,
            tokens_evaluated=reader.n_done,
            n_predict=plan.n_predict,
            cells_peak=cells_peak,
            cells_kept=cells_kept,
            bytes_peak=bytes_peak,
            bytes_kept=bytes_kept,
            held=reader.held,
            evict_seconds=reader.evict_seconds,
            seconds=time.perf_counter() - start,
        )

    def _allocated(self) -> tuple[int, int]:
        """Cells and bytes of K and V that the context has; for a memory without cells, tokens."""
        ctx = self._ctx.ctx
        try:
            return native.n_cells(ctx), native.memory_bytes(ctx)
        except UnsupportedModelError:
            return llama_cpp.llama_n_ctx(ctx), native.memory_bytes(ctx)

    def _used(self) -> tuple[int, int]:
        """Cells and bytes of the sequence; for a memory without cells, tokens and the size of its state."""
        try:
            return self.kv_cache.n_cells, self.kv_cache.n_bytes
        except UnsupportedModelError:
            return self.n_tokens, llama_cpp.llama_state_seq_get_size(self._ctx.ctx, 0)

    def stream(self, n_predict: int, *, temp: float = 0.0) -> Iterator[str]:
        """Text pieces of the answer to what was read, until the end of turn or for `n_predict` tokens.

        A token that is only a part of a character yields an empty piece, so that there is one piece per token.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if n_predict < 1:
            return
        for i, token in enumerate(self.generate([], reset=False, temp=temp), start=1):
            if llama_cpp.llama_vocab_is_eog(self._model.vocab, token):
                break
            yield decoder.decode(self.detokenize([token], prev_tokens=[token], special=False))
            if i == n_predict:
                break
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    def share_of_heads(self, layer: int | None = None) -> npt.NDArray[np.float64]:
        """As `KVCache.share_of_heads`, for each token of the text; 0 if it was not read: [tokens]."""
        share = np.zeros(self.n_tokens)
        of_read, n_first = self.kv_cache.share_of_heads(layer), len(self.places)
        share[self.places] = of_read[:n_first]
        share[n_first + self.n_skipped :] = of_read[n_first:]
        return share

    def kept(self, layer: int | None = None) -> list[tuple[str, float]]:
        """Pieces of the text of the sequence, and the share of the heads that have each of them, see `share_of_heads`.

        The pieces are tokens, or more than one where a character needs them.
        """
        share = self.share_of_heads(layer)
        decoder, pieces = codecs.getincrementaldecoder("utf-8")("replace"), []
        for token, part in zip(self.input_ids[: self.n_tokens].tolist(), share.tolist(), strict=True):
            text = decoder.decode(self.detokenize([token], prev_tokens=[token], special=True))
            pieces += [(text, part)] if text else []
        return pieces


def _cause(log: Sequence[str], error: Exception) -> str:
    """The last line of the log that says what went wrong, without the name of the C function."""
    lines = [line for line in log if "failed to load model" not in line]
    prefix = r"^\w+: (error loading model: |failed to initialize the context: )?"
    return re.sub(prefix, "", lines[-1]) if lines else str(error)
