"""llama-cpp-python's side of OpenAI's API: types of requests, and what they may carry."""

import json
from typing import Any

import llama_cpp
from llama_cpp.llama_grammar import json_schema_to_gbnf
from llama_cpp.server.types import CreateChatCompletionRequest, CreateCompletionRequest

__all__ = ["CreateChatCompletionRequest", "CreateCompletionRequest", "at_least", "grammar_of", "has_grammar"]


def grammar_of(text: str) -> llama_cpp.LlamaGrammar:
    """Return a grammar in GBNF, for `create_completion`."""
    return llama_cpp.LlamaGrammar.from_string(text, verbose=False)


def has_grammar(schema: dict[str, Any]) -> bool:
    """Return whether llama-cpp-python can make a grammar of a JSON schema; where it cannot, it takes any JSON."""
    try:
        json_schema_to_gbnf(json.dumps(schema))
    except Exception:  # it raises what comes
        return False
    return True


def at_least(n_tokens: int, token_eos: int) -> llama_cpp.LogitsProcessorList:
    """Return what keeps an answer from ending before `n_tokens`, for `create_completion`."""
    return llama_cpp.LogitsProcessorList([llama_cpp.MinTokensLogitsProcessor(n_tokens, token_eos)])
