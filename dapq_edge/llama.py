"""A `llama_cpp.Llama` that reads a long prompt, evicts its cache to a budget and answers."""

import codecs
import contextlib
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
from llama_cpp import llama_chat_format
from llama_cpp._internals import LlamaContext

from . import native
from .budgets import Budget
from .cache import BRANCH, KVCache
from .errors import DapqError, UnsupportedModelError
from .models import check_gguf
from .policies import Policy
from .reader import N_SINK, Chunk, Progress, Prompt, Reader, Way
from .reader import plan as make_plan

FLASH_ATTN = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}

# names of llama.cpp for --cache-type-k and --cache-type-v, with the values of enum ggml_type
CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q4_0": 2,
    "q4_1": 3,
    "iq4_nl": 20,
    "q5_0": 6,
    "q5_1": 7,
}

# the queries of a probe are one batch
MIN_BATCH = 64

# the KV cache of llama.cpp is padded to this many cells
N_CTX_PAD = 256


@dataclass(frozen=True)
class ReadStats:
    """How a prompt was read, see `reader.Plan`, and what it cost.

    is_compact: positions count only the tokens that were read after skimming.
    tokens_evaluated: with the chunks that were read twice and their questions. cells_peak, bytes_peak: cells of the
    context while it was read and their K and V, used or free. cells_kept, bytes_kept: of the prompt, after eviction.
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
    evict_seconds: float
    seconds: float


class Llama(llama_cpp.Llama):
    """`llama_cpp.Llama` with a cache that is read, evicted to a budget and decoded from.

    The context is opened by `open_context`, when the length of the prompt is known.

    Raises `DapqError` if the file is no model that llama.cpp can load.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        n_gpu_layers: int = -1,
        n_threads: int | None = None,
        n_batch: int = 512,
        flash_attn: str = "auto",
        type_k: str = "f16",
        type_v: str = "f16",
        seed: int = llama_cpp.LLAMA_DEFAULT_SEED,
    ) -> None:
        check_gguf(Path(model_path))
        n_batch = max(n_batch, MIN_BATCH)
        with native.captured_log() as log:
            try:
                # a small context that holds a batch, until the prompt is known
                super().__init__(
                    str(model_path),
                    n_ctx=max(N_CTX_PAD, n_batch),
                    n_batch=n_batch,
                    n_ubatch=n_batch,
                    n_gpu_layers=n_gpu_layers,
                    n_threads=n_threads,
                    n_threads_batch=n_threads,
                    seed=seed,
                    verbose=False,
                )
            except (ValueError, RuntimeError) as error:
                raise DapqError(f"llama.cpp cannot load {model_path}: {_cause(log, error)}") from error
        # the constructor takes a seed of 0 for none
        self.set_seed(seed)
        self.context_params.flash_attn_type = FLASH_ATTN[flash_attn]
        self.context_params.type_k = CACHE_TYPES[type_k]
        self.context_params.type_v = CACHE_TYPES[type_v]
        # a window cache of the size of the window, as the command line tools of llama.cpp have it
        self.context_params.swa_full = False
        # the sequences share the cells, so that a branch costs only what it copies
        self.context_params.n_seq_max, self.context_params.kv_unified = 1 + BRANCH, True
        self._kv_cache = KVCache(self._ctx.ctx)

    @property
    def n_ctx_train(self) -> int:
        """The context length that the model was trained with."""
        return self._model.n_ctx_train()

    def open_context(self, n_cells: int, n_ctx: int = 0) -> None:
        """Open a new, empty context of at least `n_cells` cells instead of the current one.

        n_ctx: the tokens that are counted at most, if they are more than the cells. Raises `DapqError` if there is not
        enough memory, or if llama.cpp does not support the cache types.
        """
        n_cells = _pad(n_cells)
        self.context_params.n_ctx = n_cells
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
                raise DapqError(f"llama.cpp cannot open a context of {n_cells} cells: {cause}") from error
        self._n_ctx = max(n_cells, n_ctx)
        self.input_ids.resize(self._n_ctx, refcheck=False)
        self.reset()

    def _use_context(self, params: llama_cpp.llama_context_params) -> None:
        context = LlamaContext(model=self._model, params=params, verbose=False)
        self._ctx = self._stack.enter_context(contextlib.closing(context))
        self._kv_cache = KVCache(self._ctx.ctx)

    @property
    def cache_types(self) -> tuple[str, str]:
        """Names of the types of K and V, see `CACHE_TYPES`."""
        names = {number: name for name, number in CACHE_TYPES.items()}
        return names[self.context_params.type_k], names[self.context_params.type_v]

    @property
    def kv_cache(self) -> KVCache:
        """The cache of the sequence that is read and decoded."""
        return self._kv_cache

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
        start = time.perf_counter()
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
        self.open_context(max(n_cells, plan.n_cells), n_ctx=plan.n_positions + plan.n_predict)
        reader = Reader(self.kv_cache, policy, plan, progress)
        cells_peak, bytes_peak = self._allocated()
        reader.read(prompt)
        self.n_tokens = self.kv_cache.next_position
        is_compact = plan.way == Way.SKIM
        self.input_ids[: self.n_tokens] = -1 if is_compact else prompt.tokens
        cells_kept, bytes_kept = self._used()
        n_needed = _pad(cells_kept + plan.n_predict)
        # bounded reading leaves no more than a chunk to give back
        if plan.way == Way.ALL and cells_kept < len(prompt) and n_needed < cells_peak:
            native.resize(self._ctx.ctx, n_needed)
        return ReadStats(
            way=plan.way,
            is_compact=is_compact,
            chunks=reader.chunks,
            tokens_evaluated=reader.n_done,
            n_predict=plan.n_predict,
            cells_peak=cells_peak,
            cells_kept=cells_kept,
            bytes_peak=bytes_peak,
            bytes_kept=bytes_kept,
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

    def chat_prompt(self, document: str, question: str = "", answer_prefix: str = "") -> Prompt:
        """A user's message, a document with a question after it, in the model's own chat template.

        Control tokens of the template that occur in the message are plain text. A model without a template gets the
        message followed by "Answer:". Raises `DapqError` if the template fails.
        """
        head, tail = self._template_parts()
        document = document.strip()
        message = self._text_tokens(f"{document}\n\n{question}".strip())
        # a token can reach across the border
        same = zip(message, self._text_tokens(document), strict=False)
        n_body = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], same))
        bos = [self.token_bos()] if llama_cpp.llama_vocab_get_add_bos(self._model.vocab) else []
        start = self.tokenize(_utf8(head), add_bos=False, special=True) if head else []
        end = self.tokenize(_utf8(tail + answer_prefix), add_bos=False, special=True)
        # a template may spell the BOS token out
        start = (bos if start[:1] != bos else []) + start
        # the first tokens draw attention whatever they are, so that they belong to every part of the document
        n_more = min(max(0, N_SINK - len(start)), n_body)
        body, tail = message[n_more:n_body], message[n_body:] + end
        return Prompt(start + message[:n_more], body, tail, has_question=bool(question))

    def _text_tokens(self, text: str) -> list[int]:
        return self.tokenize(_utf8(text), add_bos=False, special=False)

    def _template_parts(self) -> tuple[str, str]:
        """What the chat template puts before and after the message of a user."""
        template = self.metadata.get("tokenizer.chat_template")
        if template is None:
            return "", "\n\nAnswer: "
        formatter = llama_chat_format.Jinja2ChatFormatter(
            template=template,
            eos_token=self._token_text(self.token_eos()),
            bos_token=self._token_text(self.token_bos()),
        )
        place = "-the-message-"
        try:
            prompt = formatter(messages=[{"role": "user", "content": place}]).prompt
        except Exception as error:  # a template is a program of the model's author
            raise DapqError(f"the chat template of the model fails: {error}") from error
        head, found, tail = prompt.partition(place)
        if not found:
            raise DapqError("the chat template of the model drops the message of the user")
        return head, tail

    def _token_text(self, token: int) -> str:
        return self._model.token_get_text(token) if token != -1 else ""


def _utf8(text: str) -> bytes:
    # an argument or a PDF may hold what is no text
    return text.encode("utf-8", "replace")


def _pad(n_cells: int) -> int:
    return -(-n_cells // N_CTX_PAD) * N_CTX_PAD


def _cause(log: Sequence[str], error: Exception) -> str:
    """The last line of the log that says what went wrong, without the name of the C function."""
    lines = [line for line in log if "failed to load model" not in line]
    prefix = r"^\w+: (error loading model: |failed to initialize the context: )?"
    return re.sub(prefix, "", lines[-1]) if lines else str(error)
