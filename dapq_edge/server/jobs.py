"""What the endpoints ask of the model, in the worker's thread."""

from collections.abc import Generator
from typing import Any

import llama_cpp

from ..errors import UsageError
from ..llama import Llama
from .engine import Job
from .schemas import ChatRequest, CompletionRequest

# what is not for llama.cpp
OURS = {"n", "best_of", "user", "logit_bias_type", "min_tokens", "max_completion_tokens", "kv_budget", "policy"}


def completion_job(body: CompletionRequest, model: str) -> Job:
    """A completion, or chunks of it."""

    def job(llama: Llama) -> Generator[Any, None, None]:
        options = _options(llama, body)
        if isinstance(body.prompt, list):
            options["prompt"] = body.prompt[0]
        yield from _results(llama.create_completion(**options | {"model": model}), body.stream)

    return job


def chat_job(body: ChatRequest, model: str) -> Job:
    """A chat completion, or chunks of it."""

    def job(llama: Llama) -> Generator[Any, None, None]:
        options = _options(llama, body)
        if body.max_completion_tokens is not None:
            options["max_tokens"] = body.max_completion_tokens
        yield from _results(llama.create_chat_completion(**options | {"model": model}), body.stream)

    return job


def kept_job(llama: Llama) -> Generator[Any, None, None]:
    """Pieces of the text, and the share of heads that keep each."""
    yield llama.kept()


def count_job(text: str) -> Job:
    """Tokens of a text."""

    def job(llama: Llama) -> Generator[Any, None, None]:
        yield len(llama.tokenize(text.encode("utf-8", "replace"), add_bos=False))

    return job


def _options(llama: Llama, body: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """Arguments of llama-cpp-python. Raises `UsageError`."""
    llama.set_eviction(body.kv_budget, body.policy)
    options = body.model_dump(exclude=OURS)
    if body.logit_bias and max(map(int, body.logit_bias)) >= llama.n_vocab():
        raise UsageError(f"logit_bias: the model has {llama.n_vocab()} tokens")
    if body.grammar is not None:
        options["grammar"] = _grammar(llama, body.grammar)
    if body.min_tokens:
        at_least = llama_cpp.MinTokensLogitsProcessor(body.min_tokens, llama.token_eos())
        options["logits_processor"] = llama_cpp.LogitsProcessorList([at_least])
    return options


def _grammar(llama: Llama, text: str) -> llama_cpp.LlamaGrammar:
    # llama-cpp-python would take what llama.cpp refuses, and crash
    sampler = llama_cpp.llama_sampler_init_grammar(llama._model.vocab, text.encode(), b"root")
    if not sampler:
        raise UsageError("grammar: llama.cpp cannot read it")
    llama_cpp.llama_sampler_free(sampler)
    return llama_cpp.LlamaGrammar.from_string(text, verbose=False)


def _results(made: Any, is_stream: bool) -> Generator[Any, None, None]:
    if is_stream:
        yield from made
    else:
        yield made
