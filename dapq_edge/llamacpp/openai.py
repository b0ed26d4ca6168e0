"""llama-cpp-python's side of OpenAI's API: types of requests, and what they may carry."""

import llama_cpp
from llama_cpp.server.types import CreateChatCompletionRequest, CreateCompletionRequest

__all__ = ["CreateChatCompletionRequest", "CreateCompletionRequest", "at_least", "grammar_of"]


def grammar_of(text: str) -> llama_cpp.LlamaGrammar:
    """Return a grammar in GBNF, for `create_completion`."""
    return llama_cpp.LlamaGrammar.from_string(text, verbose=False)


def at_least(n_tokens: int, token_eos: int) -> llama_cpp.LogitsProcessorList:
    """Return what keeps an answer from ending before `n_tokens`, for `create_completion`."""
    return llama_cpp.LogitsProcessorList([llama_cpp.MinTokensLogitsProcessor(n_tokens, token_eos)])
