"""Decision about a prompt, given what is in the cache: reuse it, append to it, or read anew. Pure functions."""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass

from ..cache.sequence import Sequence
from ..cells import CHUNK

# free cells that an answer has before its conversation is evicted again
N_ANSWER = CHUNK // 2


@dataclass(frozen=True)
class Limits:
    """Facts that a decision depends on, beside the sequence and the prompt.

    Attributes:
        n_most: Cells that are kept at most.
        n_cells: Cells of the context.
        n_working: Cells of them that an eviction needs.
        n_ctx: Tokens of prompt and answer at most.
        n_ctx_train: Tokens that the model was trained for.
        can_skim: Whether what does not fit is skimmed; otherwise it is read in chunks behind the rest.
        is_recurrent: Whether the last tokens cannot be forgotten.
        has_logits: Whether the logits of the sequence's last token are there.
        needs_whole_prompt: Whether what has lost cells cannot be evicted again.
    """

    n_most: int
    n_cells: int
    n_working: int
    n_ctx: int
    n_ctx_train: int
    can_skim: bool
    is_recurrent: bool
    has_logits: bool
    needs_whole_prompt: bool = False


@dataclass(frozen=True)
class Reuse:
    """The prompt is the start of the sequence, and its last logits are known: keep `n_tokens` tokens."""

    n_tokens: int


@dataclass(frozen=True)
class Append:
    """Keep the first `n_tokens` tokens of the sequence, and evaluate the rest of the prompt behind them.

    may_reread: Whether some of the kept ones are lost, so that the new ones may need to be read with what is missing.
    """

    n_tokens: int
    may_reread: bool = False


@dataclass(frozen=True)
class Reread:
    """Read the whole prompt into an empty cache."""


Decision = Reuse | Append | Reread


def decide(sequence: Sequence, tokens: Tokens[int], limits: Limits) -> Decision:
    """Choose what costs least and loses nothing that the prompt still has.

    Args:
        sequence: What the cache holds.
        tokens: All of the prompt, see `align.align`.
        limits: What there is room for.
    """
    n_same = sequence.n_same(tokens)
    is_cut = n_same < sequence.n_tokens or (n_same == len(tokens) and not limits.has_logits)
    if n_same < sequence.n_frozen or (is_cut and limits.is_recurrent):
        sequence, n_same = Sequence(), 0
    is_lossy = sequence.n_frozen > 0
    if n_same == len(tokens) > 0:
        if n_same == sequence.n_tokens and limits.has_logits:
            # an answer that outgrew the budget is evicted when its cells are used up
            return Reuse(n_same)
        if n_same == sequence.n_frozen:
            return Reuse(n_same) if sequence.logits_at_eviction is not None else Reread()
        # one token is read again, to have its logits
        n_same -= 1
    if is_lossy and limits.needs_whole_prompt:
        return Reread()
    fits = not is_lossy and len(tokens) <= limits.n_most
    if fits or _fits(sequence.truncate(n_same), len(tokens) - n_same, limits):
        return Append(n_same, is_lossy)
    return Reread()


def _fits(sequence: Sequence, n_tokens: int, limits: Limits) -> bool:
    """Return whether so many tokens can be evaluated next, and then be evicted."""
    n_positions = sequence.n_positions + n_tokens + N_ANSWER
    if limits.n_ctx > limits.n_ctx_train and n_positions > limits.n_ctx_train:
        return False
    # what is beyond the budget can be evicted before
    n_used = min(sequence.n_cells, limits.n_most)
    return n_used + n_tokens + limits.n_working <= limits.n_cells or not limits.can_skim
