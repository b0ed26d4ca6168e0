"""A `llama_cpp.Llama` that reads a long prompt, evicts its cache to a budget and answers."""

import codecs
import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
from llama_cpp import llama_chat_format
from llama_cpp._internals import LlamaContext

from . import native
from .budgets import Budget
from .cache import KVCache
from .errors import DapqError, UnsupportedModelError
from .models import check_gguf
from .policies import Policy

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

# the KV cache of llama.cpp is padded to this many cells
N_CTX_PAD = 256

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ReadStats:
    """What reading a prompt cost. Bytes are those of the K and V data of the prompt's cells, in all layers."""

    cells_read: int
    cells_kept: int
    bytes_read: int
    bytes_kept: int
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

    @property
    def n_ctx_train(self) -> int:
        """The context length that the model was trained with."""
        return self._model.n_ctx_train()

    def open_context(self, n_ctx: int) -> None:
        """Open a new, empty context of at least `n_ctx` cells instead of the current one.

        Raises `DapqError` if there is not enough memory, or if llama.cpp does not support the cache types.
        """
        n_ctx = -(-n_ctx // N_CTX_PAD) * N_CTX_PAD
        self.context_params.n_ctx = n_ctx
        self._ctx.close()
        with native.captured_log() as log:
            try:
                context = LlamaContext(model=self._model, params=self.context_params, verbose=False)
            except ValueError as error:
                cause = _cause(log, error)
                if "alloc" in cause:
                    cause = f"not enough memory ({cause}): lower -c, or set -ctk and -ctv to q8_0"
                raise DapqError(f"llama.cpp cannot open a context of {n_ctx} cells: {cause}") from error
        self._ctx = self._stack.enter_context(contextlib.closing(context))
        self._n_ctx = n_ctx
        self.input_ids.resize(n_ctx, refcheck=False)
        self.reset()

    @property
    def kv_cache(self) -> KVCache:
        """The cache of the sequence that is read and decoded."""
        return KVCache(self._ctx.ctx)

    def read(
        self, tokens: Sequence[int], policy: Policy, budget: Budget, progress: Progress = lambda _: None
    ) -> ReadStats:
        """Read a prompt into the empty context, then evict its cache to the budget.

        `progress` is called with the number of tokens read so far. The logits of the last token, from the full cache,
        stay for `stream`. Raises `DapqError` if llama.cpp fails, and what `Policy.evict` raises.
        """
        start = time.perf_counter()
        if len(tokens) > self._n_ctx:
            raise DapqError(f"the prompt has {len(tokens):,} tokens, but the context has {self._n_ctx:,} cells")
        policy.check(self.kv_cache, budget, len(tokens))
        self.reset()
        for i in range(0, len(tokens), self.n_batch):
            try:
                self.eval(tokens[i : i + self.n_batch])
            except RuntimeError as error:
                raise DapqError(f"llama.cpp cannot read token {i} of {len(tokens)}: {error}") from error
            progress(self.n_tokens)
        cells_read, bytes_read = self._usage()
        policy.evict(self.kv_cache, budget)
        cells_kept, bytes_kept = self._usage()
        return ReadStats(cells_read, cells_kept, bytes_read, bytes_kept, time.perf_counter() - start)

    def _usage(self) -> tuple[int, int]:
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

    def chat_tokens(self, message: str, answer_prefix: str = "") -> list[int]:
        """Tokens of a user's message in the model's own chat template, up to where the answer begins.

        Control tokens of the template that occur in the message are plain text. A model without a template gets the
        message followed by "Answer:". Raises `DapqError` if the template fails.
        """
        head, tail = self._template_parts()
        body = self.tokenize(message.strip().encode(), add_bos=False, special=False)
        bos = [self.token_bos()] if llama_cpp.llama_vocab_get_add_bos(self._model.vocab) else []
        start = self.tokenize(head.encode(), add_bos=False, special=True) if head else []
        end = self.tokenize((tail + answer_prefix).encode(), add_bos=False, special=True)
        # a template may spell the BOS token out
        return (bos if start[:1] != bos else []) + start + body + end

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


def _cause(log: Sequence[str], error: Exception) -> str:
    """The last line of the log that says what went wrong, without the name of the C function."""
    lines = [line for line in log if "failed to load model" not in line]
    prefix = r"^\w+: (error loading model: |failed to initialize the context: )?"
    return re.sub(prefix, "", lines[-1]) if lines else str(error)
