"""The request in plain tokens: where messages begin, and which part of them asks something."""

import itertools
from collections.abc import Sequence

from ..cells import N_SINK
from ..llamacpp.model import Model
from .prompt import Prompt

# tokens at the end of a prompt among which its question is, and how many that has at least
N_QUESTION, N_SHORT = 256, 8

# tokens between the start of a message and its text: the role
N_ROLE = 6


def longest_message(model: Model, tokens: Sequence[int]) -> int:
    """Return the number of tokens of the longest message of a prompt, see `split_prompt`."""
    return max(stop - start for start, stop in itertools.pairwise([0, *_borders(model, tokens), len(tokens)]))


def split_prompt(model: Model, tokens: Sequence[int], n_question: int = N_QUESTION) -> Prompt:
    """Find the question at the end of a prompt, and what stands before the first long message.

    Messages begin with control tokens. A question is the last message, or the last paragraph of a long one. Without
    control tokens and paragraphs, the last tokens are taken. Neither part has more than `n_question` tokens.
    """
    borders = _borders(model, tokens)
    n_head = _head_length(model, tokens, borders, n_question)
    start = max(n_head, _question_start(model, tokens, borders, n_question))
    return Prompt(list(tokens[:n_head]), list(tokens[n_head:start]), list(tokens[start:]))


def _borders(model: Model, tokens: Sequence[int]) -> list[int]:
    """Return where the control tokens are."""
    return [i for i, token in enumerate(tokens) if model.is_control(token)]


def _head_length(model: Model, tokens: Sequence[int], borders: list[int], n_most: int) -> int:
    for start, stop in itertools.pairwise([*borders, len(tokens)]):
        if start + 1 + N_ROLE > n_most:
            break
        if stop - start > n_most:
            role = [model.detokenize([token], special=False) for token in tokens[start + 1 : start + 1 + N_ROLE]]
            n_role = next((i for i, piece in enumerate(role, start=1) if b"\n" in piece), 0)
            return max(start + 1 + n_role, N_SINK)
    return min(N_SINK, len(tokens))


def _question_start(model: Model, tokens: Sequence[int], borders: list[int], n_most: int) -> int:
    n_tokens = len(tokens)
    start = next((i for i in reversed(borders) if n_tokens - i >= N_SHORT), 0)
    if n_tokens - start <= n_most:
        return start
    first = max(0, n_tokens - n_most)
    pieces = [model.detokenize([token]) for token in tokens[first : n_tokens - N_SHORT]]
    for wanted in (b"\n\n", b"\n"):
        for i in range(len(pieces) - 1, -1, -1):
            # the line break may be one token or two; it belongs to the question, which stands behind other text then
            if b"".join(pieces[i : i + 2]).rstrip(b" ").endswith(wanted):
                return first + i
    return n_tokens - min(n_most, N_QUESTION // 4)
