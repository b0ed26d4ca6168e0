"""Grammars that do not end the process: llama.cpp aborts where it cannot read one, or gets stuck in one."""

import ctypes
from typing import Any

import llama_cpp
import numpy as np

from ..errors import UsageError

# llama.cpp reads a grammar recursively
MAX_CHARS, MAX_NESTING = 2**17, 1000

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def check_grammar(vocab: llama_cpp.llama_vocab_p, text: str, root: str) -> None:
    """Raise `UsageError` if llama.cpp cannot read the grammar `text`, whose first rule is `root`."""
    depth = deepest = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    if len(text) > MAX_CHARS or deepest > MAX_NESTING or "\0" in text:
        raise UsageError(
            f"has more than {MAX_CHARS:,} characters, or is nested more than {MAX_NESTING:,} deep", param="grammar"
        )
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, text.encode(), root.encode())
    # an empty one is none
    if text and not sampler:
        raise UsageError("cannot be read by llama.cpp", param="grammar")
    llama_cpp.llama_sampler_free(sampler)


class GrammarSampler:
    """A sampler with a grammar; `llama_sampler_sample`, but a token that the grammar refuses is not accepted.

    Args:
        sampler: The chain of samplers.
        owner: Whatever frees it, kept alive as long as this.
        n_vocab: Tokens of the vocabulary.
    """

    def __init__(self, sampler: Any, owner: Any, n_vocab: int) -> None:
        self._sampler, self._owner = sampler, owner
        self._candidates = np.empty(n_vocab, CANDIDATE)

    def sample(self, ctx: Any, idx: int = -1) -> int:
        """Return the next token. Raises `UsageError` if the grammar allows none."""
        candidates = self._candidates
        n_vocab = len(candidates)
        candidates["id"] = np.arange(n_vocab)
        candidates["logit"] = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(ctx.ctx, idx), (n_vocab,))
        data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data=data, size=n_vocab, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        if not 0 <= array.selected < array.size or array.data[array.selected].logit == -np.inf:
            raise UsageError("allows no token that can follow", param="grammar")
        token = int(array.data[array.selected].id)
        llama_cpp.llama_sampler_accept(self._sampler, token)
        return token
