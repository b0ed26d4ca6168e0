"""Private members of llama-cpp-python 0.3.36 that this package uses, so that a new version is met in one file.

`MEMBERS` lists them; `tests/native/test_compat.py` names the one that is gone.
"""

import contextlib
import ctypes
from collections.abc import Callable, Generator, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import llama_cpp
from llama_cpp import llama_chat_format
from llama_cpp._internals import LlamaContext
from llama_cpp._logger import llama_log_callback as log_callback
from llama_cpp.llama_cpp import _lib as lib

from ..errors import DapqError, TooLongError
from .grammar import GrammarSampler, check_grammar

__all__ = ["MEMBERS", "GuardedLlama", "lib", "log_callback"]

# what an opened `llama_cpp.Llama`, and the objects in it, must have
MEMBERS = {
    "Llama": ("_ctx", "_model", "_stack", "_n_ctx", "_n_vocab", "_logits_all", "_lora_adapter", "_chat_handlers"),
    "Llama methods": ("_init_sampler", "_create_completion"),
    "LlamaModel": ("vocab", "model", "n_ctx_train", "token_get_text", "_exit_stack"),
    "LlamaContext": ("ctx", "close", "_exit_stack"),
    "LlamaSampler": ("sampler", "sample", "accept"),
    "LlamaGrammar": ("_grammar", "_root"),
}


def vocab_pointer(llama: llama_cpp.Llama) -> llama_cpp.llama_vocab_p:
    """Return the vocabulary that llama.cpp's functions take."""
    vocab: llama_cpp.llama_vocab_p = llama._model.vocab
    return vocab


def n_ctx_train(llama: llama_cpp.Llama) -> int:
    """Return the context length that the model was trained with."""
    return int(llama._model.n_ctx_train())


def token_text(llama: llama_cpp.Llama, token: int) -> str:
    """Return how the vocabulary writes a token; empty for -1, which is none."""
    return str(llama._model.token_get_text(token)) if token != -1 else ""


def token_bytes(vocab: llama_cpp.llama_vocab_p, token: int, special: bool) -> bytes:
    """Return the bytes that a token stands for; a control token has its name if `special`, else none."""
    size = 32
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = llama_cpp.llama_token_to_piece(vocab, token, buffer, size, 0, special)
        if n >= 0:
            return buffer.raw[:n]
        size = -n


def is_end(llama: llama_cpp.Llama, token: int) -> bool:
    """Return whether a token ends an answer."""
    return bool(llama_cpp.llama_vocab_is_eog(llama._model.vocab, token))


def is_logits_all(llama: llama_cpp.Llama) -> bool:
    """Return whether the logits of all tokens are wanted."""
    return llama._logits_all


def replace_context(llama: llama_cpp.Llama, params: llama_cpp.llama_context_params) -> None:
    """Close the context of `llama`, and open one with `params`. Raises ValueError if llama.cpp cannot.

    A context that llama-cpp-python opens stays on the exit stack of its model for ever; ours has a stack of its own.
    """
    llama._ctx.close()
    model = SimpleNamespace(model=llama._model.model, _exit_stack=contextlib.ExitStack())
    llama._ctx = LlamaContext(model=model, params=params, verbose=llama.verbose)
    if llama._lora_adapter:
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(llama._lora_adapter)
        scales = (ctypes.c_float * 1)(llama.lora_scale)
        if llama_cpp.llama_set_adapters_lora(llama._ctx.ctx, adapters, 1, scales):
            raise DapqError(f"llama.cpp cannot use the LoRA adapter {llama.lora_path}")


def init_sampler(llama: llama_cpp.Llama, temp: float) -> Any:
    """Return llama-cpp-python's chain of samplers with its defaults, for `sample`."""
    return llama._init_sampler(temp=temp)


def sample(llama: llama_cpp.Llama, sampler: Any) -> int:
    """Return the token that follows the last one that was evaluated."""
    return int(sampler.sample(llama._ctx, -1))


def chat_formatter(llama: llama_cpp.Llama, template: str) -> llama_chat_format.Jinja2ChatFormatter:
    """Return the formatter of a chat template, with the model's own tokens for start and end."""
    return llama_chat_format.Jinja2ChatFormatter(
        template=template,
        eos_token=token_text(llama, llama.token_eos()),
        bos_token=token_text(llama, llama.token_bos()),
    )


class _RenderedError(Exception):
    """The text that a chat template made, and whether a start token comes before it."""


class GuardedLlama(llama_cpp.Llama):
    """`llama_cpp.Llama` that does not abort in a grammar, loses no long tokens, and says in tokens what is too long."""

    # is given the text of a chat, and whether a start token comes before it, instead of the tokenizer
    _on_chat: Callable[[str, bool], list[int]] | None = None

    chat_handler: Any
    chat_format: str
    _chat_handlers: dict[str, Any]

    # tokens of the next answer at most, those of incomplete characters too; 0 for any number
    _n_predict = 0

    # whether the last answer ended because of that, or with the context
    _is_cut = False

    # control tokens whose names are text of the next answer
    _shown: frozenset[int] = frozenset()

    # what is closed in the end, if the constructor fails early
    _stack = contextlib.ExitStack()

    @property
    def _n_ctx(self) -> int:
        return self.n_ctx()

    @_n_ctx.setter
    def _n_ctx(self, n_ctx: int) -> None:
        """Leave it as it is: it follows from `n_ctx`, which may change."""

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """Return the bytes that tokens stand for; llama-cpp-python loses tokens of more than 32 bytes (64 hyphens)."""
        vocab, shown = self._model.vocab, self._shown
        text = b"".join(token_bytes(vocab, token, special or token in shown) for token in tokens)
        is_start = len(tokens) > 0 and tokens[0] == self.token_bos()
        return text[1:] if is_start and text[:1] == b" " else text

    def close(self) -> None:
        """Free the context, whichever it is by now, and then the model."""
        if hasattr(self, "_ctx"):
            self._ctx.close()
        super().close()

    @property
    def has_chat_template(self) -> bool:
        """True if chats are written by a template, and not by a handler of another kind."""
        handlers: Any = llama_chat_format
        chosen = self._chat_handlers.get(self.chat_format) or handlers.get_chat_completion_handler(self.chat_format)
        name: str = handlers.chat_formatter_to_chat_completion_handler.__name__
        return not self.chat_handler and str(chosen.__qualname__).startswith(name)

    def render_chat(self, messages: list[dict[str, Any]], tools: dict[str, Any]) -> tuple[str, bool]:
        """Return the text that the chat template makes, and whether a start token comes before it.

        Raises what the template raises.
        """

        def stop(text: str, add_bos: bool) -> list[int]:
            raise _RenderedError(text, add_bos)

        try:
            self.answer_chat(stop, messages=messages, **tools)
        except _RenderedError as rendered:
            text, add_bos = rendered.args
            return text, add_bos
        raise DapqError("llama-cpp-python made no text of the messages")

    def answer_chat(self, on_chat: Callable[[str, bool], list[int]], **options: Any) -> Any:
        """Call `create_chat_completion` of llama-cpp-python, with the tokens that `on_chat` gives for its text."""
        self._on_chat = on_chat
        try:
            return super().create_chat_completion(**options)
        finally:
            self._on_chat = None

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Return the tokens of a text, as `llama_cpp.Llama.tokenize`."""
        on_chat, self._on_chat = self._on_chat, None
        return on_chat(text.decode(), add_bos) if on_chat else super().tokenize(text, add_bos, special)

    def check_grammar(self, grammar: llama_cpp.LlamaGrammar | None) -> None:
        """Raise `UsageError` if llama.cpp cannot read a grammar."""
        if grammar is not None:
            check_grammar(self._model.vocab, grammar._grammar, grammar._root)

    def _init_sampler(self, *args: Any, grammar: llama_cpp.LlamaGrammar | None = None, **options: Any) -> Any:
        if grammar is None:
            return super()._init_sampler(*args, **options)
        self.check_grammar(grammar)
        sampler = super()._init_sampler(*args, grammar=grammar, **options)
        return GrammarSampler(sampler.sampler, sampler, self._n_vocab)

    def generate(self, tokens: Sequence[int], *args: Any, **options: Any) -> Generator[int, Sequence[int] | None, None]:
        """Generate tokens as `llama_cpp.Llama.generate`, but end with the context, and after `_n_predict` tokens.

        llama-cpp-python counts no tokens in the middle of a character, and would go on.
        """
        n_most, n_made = self._n_predict, 0
        made = super().generate(tokens, *args, **options)
        with contextlib.closing(made), contextlib.suppress(StopIteration):
            sent = yield made.send(None)
            while self.n_tokens < self.n_ctx() and (n_made := n_made + 1) != n_most:
                sent = yield made.send(sent)
            self._is_cut = True
            if self.token_eos() >= 0:
                yield self.token_eos()

    def _create_completion(self, *args: Any, **options: Any) -> Iterator[Any]:
        self._n_predict, self._is_cut = max(0, options.get("max_tokens") or 0), False
        try:
            for result in super()._create_completion(*args, **options):
                if self._is_cut and result["choices"][0]["finish_reason"]:
                    result["choices"][0]["finish_reason"] = "length"
                yield result
        except ValueError as error:
            words = str(error)
            if not words.startswith("Requested tokens"):
                raise
            # the window that llama.cpp knows is the one of the cells
            raise TooLongError(f"{words[: words.rindex(' ')]} {self.n_ctx()}") from error
        finally:
            self._n_predict, self._shown = 0, frozenset()
