"""A loaded model: its vocabulary, its options, and one context at a time."""

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp

from ..cells import MIN_BATCH, N_CTX_PAD, pad
from ..errors import DapqError, ModelError, UsageError
from . import compat
from .context import CACHE_TYPES, FLASH_ATTN, Context, set_sequence_params
from .log import captured_log

# fields of `llama_context_params` that change K and V, or how they are saved
CACHE_PARAMS = (
    "type_k",
    "type_v",
    "flash_attn_type",
    "offload_kqv",
    "rope_scaling_type",
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_orig_ctx",
)


class Model:
    """Weights, vocabulary and context of a `llama_cpp.Llama`, by its public face.

    Args:
        llama: An opened model.
    """

    def __init__(self, llama: llama_cpp.Llama) -> None:
        self._llama = llama
        self._vocab = compat.vocab_pointer(llama)
        self.path = Path(llama.model_path)
        self._pieces: dict[int, bytes] = {}

    @property
    def context(self) -> Context:
        """The context that is open."""
        return self._llama.ctx

    @property
    def n_ctx_train(self) -> int:
        """The context length that the model was trained with."""
        return compat.n_ctx_train(self._llama)

    @property
    def n_batch(self) -> int:
        """Tokens that are evaluated at once."""
        return self._llama.n_batch

    @property
    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""
        return self._llama.n_vocab()

    @property
    def cache_types(self) -> tuple[str, str]:
        """Names of the types of K and V, see `CACHE_TYPES`."""
        names, params = {number: name for name, number in CACHE_TYPES.items()}, self._llama.context_params
        return names[params.type_k], names[params.type_v]

    @property
    def files(self) -> list[Path]:
        """Files of the weights, all parts of a split model, and of an adapter."""
        prefix, is_split, rest = self.path.name.rpartition("-00001-of-")
        parts = sorted(self.path.parent.glob(f"{glob.escape(prefix)}-*-of-{rest}")) if is_split else [self.path]
        adapter = getattr(self._llama, "lora_path", None)
        return [*parts, Path(adapter)] if adapter else parts

    @property
    def cache_key(self) -> str:
        """Options that K and V depend on beside the files and the tokens, as text."""
        params = {name: getattr(self._llama.context_params, name) for name in CACHE_PARAMS}
        options = {name: getattr(self._llama, name) for name in ("kv_overrides", "lora_scale", "model_params")}
        options["model_params"] = options["model_params"].n_gpu_layers
        if any(name.endswith(".rope.scaling.original_context_length") for name in self._llama.metadata):
            # the rotation of some models depends on the length of the context
            options["n_ctx"] = llama_cpp.llama_n_ctx(self.context)
        return f"{params} {options}"

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of a chat, or None for a model that has none."""
        return self._llama.metadata.get("tokenizer.chat_template")

    @property
    def start_tokens(self) -> list[int]:
        """The token that every text begins with, if the model wants one."""
        return [self._llama.token_bos()] if llama_cpp.llama_vocab_get_add_bos(self._vocab) else []

    def tokenize(self, text: str, *, special: bool = False, add_bos: bool = False) -> list[int]:
        """Return the tokens of a text.

        Args:
            text: Half of a surrogate pair, which an argument or a PDF may hold, becomes a question mark.
            special: Whether control tokens are read; otherwise what spells them is text.
            add_bos: Whether the start token comes first.
        """
        return self._llama.tokenize(text.encode("utf-8", "replace"), add_bos=add_bos, special=special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> bytes:
        """Return the bytes that tokens stand for; a control token has its name if `special`, else none."""
        return self._llama.detokenize(list(tokens), special=special)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes that each token stands for by itself; a control token has its name."""
        for token in set(tokens) - self._pieces.keys():
            self._pieces[token] = self.detokenize([token])
        return [self._pieces[token] for token in tokens]

    def is_control(self, token: int) -> bool:
        """Return whether a token is one of the template's, and no text."""
        return llama_cpp.llama_vocab_is_control(self._vocab, token)

    @cached_property
    def control_texts(self) -> list[str]:
        """Spellings of the control tokens."""
        tokens = range(self.n_vocab)
        return [compat.token_text(self._llama, token) for token in tokens if self.is_control(token)]

    def is_end(self, token: int) -> bool:
        """Return whether a token ends an answer."""
        return compat.is_end(self._llama, token)

    def format_user_message(self, text: str) -> str:
        """Return a prompt with `text` as the message of a user, by the chat template. Raises what the template does."""
        return self.format_messages([{"role": "user", "content": text}])

    def format_messages(self, messages: Sequence[dict[str, str]]) -> str:
        """Return a prompt with messages, by the chat template. Raises what the template does."""
        formatter = compat.chat_formatter(self._llama, self.chat_template or "")
        return str(formatter(messages=list(messages)).prompt)

    def sampler(self, temp: float) -> Any:
        """Return a sampler for `sample`, with the seed of the model; a temperature of 0 is greedy."""
        return compat.init_sampler(self._llama, temp)

    def sample(self, sampler: Any) -> int:
        """Return the token that follows the last one that was evaluated."""
        return compat.sample(self._llama, sampler)

    def open_context(self, n_cells: int) -> Context:
        """Open a new, empty context of at least `n_cells` cells instead of the current one.

        Raises `DapqError` if there is not enough memory, or if llama.cpp does not support the cache types; a small
        context is open then.
        """
        params = self._llama.context_params
        set_sequence_params(params, n_cells)
        with captured_log() as log:
            try:
                compat.replace_context(self._llama, params)
            except ValueError as error:
                cause = _cause(log, error)
                if "alloc" in cause:
                    remedy = "lower `n_ctx`, `n_predict` or `kv_budget`, or set `type_k=q8_0` `type_v=q8_0`"
                    cause = f"not enough memory ({cause}): {remedy}"
                # the next prompt may need less
                small = llama_cpp.llama_context_default_params()
                small.n_ctx = N_CTX_PAD
                compat.replace_context(self._llama, small)
                raise DapqError(f"llama.cpp cannot open a context of {pad(n_cells)} cells: {cause}") from error
        return self.context

    def close(self) -> None:
        """Free the model and its context."""
        self._llama.close()


def check_cache_types(type_k: int | str | None, type_v: int | str | None) -> None:
    """Raise `UsageError` if the name of a type of K or V is none of `CACHE_TYPES`."""
    for param, kind in (("type_k", type_k), ("type_v", type_v)):
        if isinstance(kind, str) and kind not in CACHE_TYPES:
            raise UsageError(f"{kind}: choose one of {', '.join(CACHE_TYPES)}", param=param)


def model_options(
    *,
    flash_attn: bool | str,
    n_batch: int = 512,
    n_ubatch: int = 512,
    type_k: int | str | None = None,
    type_v: int | str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return arguments of `llama_cpp.Llama` for ours, whose types have names, and whose batches hold a probe.

    Raises `UsageError` if there is no such name.
    """
    check_cache_types(type_k, type_v)
    if isinstance(flash_attn, str) and flash_attn not in FLASH_ATTN:
        raise UsageError(f"{flash_attn}: choose one of {', '.join(FLASH_ATTN)}", param="flash_attn")
    return {
        **options,
        "n_batch": max(n_batch, MIN_BATCH),
        "n_ubatch": max(n_ubatch, MIN_BATCH),
        "flash_attn": flash_attn not in (False, "off"),
        "type_k": CACHE_TYPES[type_k] if isinstance(type_k, str) else type_k,
        "type_v": CACHE_TYPES[type_v] if isinstance(type_v, str) else type_v,
    }


def set_flash_attn(llama: llama_cpp.Llama, flash_attn: bool | str) -> None:
    """Choose for the next contexts; llama-cpp-python does not know "auto"."""
    names: dict[bool | str, str] = {True: "on", False: "off"}
    llama.context_params.flash_attn_type = FLASH_ATTN[names.get(flash_attn, str(flash_attn))]


@contextmanager
def loading(path: Path, verbose: bool) -> Iterator[None]:
    """Turn what `llama_cpp.Llama` raises while it opens `path` into `ModelError` or `DapqError`."""
    capture: AbstractContextManager[Sequence[str]] = nullcontext([]) if verbose else captured_log()
    with capture as log:
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if isinstance(error, DapqError):
                raise
            if "llama_context" in str(error):
                raise DapqError(f"llama.cpp cannot open a context: {_cause(log, error)}") from error
            raise ModelError(f"llama.cpp cannot load {path}: {_cause(log, error)}") from error


def load_model(path: Path, *, flash_attn: bool | str, seed: int, verbose: bool = False, **options: Any) -> Model:
    """Load a model with a small context. Raises `ModelError` if llama.cpp cannot, and as `Model.open_context` does."""
    with loading(path, verbose):
        options = model_options(flash_attn=flash_attn, **options)
        llama = compat.GuardedLlama(str(path), n_ctx=N_CTX_PAD, seed=seed, verbose=verbose, **options)
    # the constructor takes a seed of 0 for none
    llama.set_seed(seed)
    set_flash_attn(llama, flash_attn)
    return Model(llama)


def _cause(log: Sequence[str], error: Exception) -> str:
    """Return the last line of the log that says what went wrong, without the name of the C function."""
    lines = [line for line in log if "failed to load model" not in line]
    prefix = r"^\w+: (error loading model: |failed to initialize the context: )?"
    return re.sub(prefix, "", lines[-1]) if lines else str(error)
