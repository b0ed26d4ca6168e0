"""Grammars that do not end the process: llama.cpp aborts where it cannot read one, or gets stuck in one."""

import ctypes

import llama_cpp
import numpy as np
from llama_cpp._internals import LlamaContext, LlamaModel, LlamaSampler

from .errors import UsageError

# llama.cpp reads a grammar recursively
MAX_CHARS, MAX_NESTING = 2**17, 1000

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def check_grammar(model: LlamaModel, grammar: llama_cpp.LlamaGrammar) -> None:
    """Raise `UsageError` if llama.cpp cannot read it."""
    text = grammar._grammar
    depth = deepest = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    if len(text) > MAX_CHARS or deepest > MAX_NESTING or "\0" in text:
        raise UsageError(f"grammar: at most {MAX_CHARS:,} characters, nested {MAX_NESTING:,} deep")
    sampler = llama_cpp.llama_sampler_init_grammar(model.vocab, text.encode(), grammar._root.encode())
    # an empty one is none
    if text and not sampler:
        raise UsageError("grammar: llama.cpp cannot read it")
    llama_cpp.llama_sampler_free(sampler)


class GrammarSampler:
    """A sampler with a grammar; `llama_sampler_sample`, but a token that the grammar refuses is not accepted."""

    def __init__(self, sampler: LlamaSampler, n_vocab: int) -> None:
        self._sampler = sampler
        self._candidates = np.empty(n_vocab, CANDIDATE)

    def sample(self, ctx: LlamaContext, idx: int = -1) -> int:
        """The next token. Raises `UsageError` if the grammar allows none."""
        candidates = self._candidates
        n_vocab = len(candidates)
        candidates["id"] = np.arange(n_vocab)
        candidates["logit"] = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(ctx.ctx, idx), (n_vocab,))
        data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data=data, size=n_vocab, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._sampler.sampler, ctypes.byref(array))
        if not 0 <= array.selected < array.size or array.data[array.selected].logit == -np.inf:
            raise UsageError("grammar: no token can follow")
        token = array.data[array.selected].id
        self._sampler.accept(token)
        return token
