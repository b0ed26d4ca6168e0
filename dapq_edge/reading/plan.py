"""Plan of reading a prompt: in which mode, and with how many cells."""

import math
from dataclasses import dataclass
from enum import Enum

from ..cells import CHUNK
from ..errors import TooLongError, UsageError
from ..eviction.budget import Budget
from ..eviction.policies import Policy
from ..prompt import Prompt
from ..prompt.window import ending_of, window_of
from .relevance import N_LOOK_AHEAD

# cells used at most to skim, where a larger cache takes more time than fewer questions save
N_SKIM = 1024


class ReadMode(str, Enum):
    """Mode of reading a prompt.

    full: everything, then one eviction; the peak is the full cache. chunked: after each chunk, an eviction. skim: each
    window of the document is asked for itself, then what is most relevant is read.
    """

    FULL = "full"
    CHUNKED = "chunked"
    SKIM = "skim"


class SkimMode(str, Enum):
    """Extent of skimming.

    auto: windows that share most words with the question first, until what was found is clearly relevant and nothing
    unread shares nearly as many. all: every window of the document.
    """

    AUTO = "auto"
    ALL = "all"


def skim_mode(name: SkimMode | str) -> SkimMode:
    """Return the mode of a name. Raises `UsageError` if there is none."""
    try:
        return SkimMode(name)
    except ValueError:
        raise UsageError(f"{name}: choose of {', '.join(mode.value for mode in SkimMode)}", param="skim") from None


@dataclass(frozen=True)
class Plan:
    """Mode and numbers of reading a prompt.

    Attributes:
        mode: See `ReadMode`.
        n_keep: Cells that it keeps.
        n_most: Cells that it keeps at most where eviction would hurt.
        n_resident: The same in the layer that keeps most.
        n_cells: Cells that the context needs.
        n_predict: Tokens of the answer at most.
        n_positions: Positions that the prompt takes; when it is skimmed, they count only the tokens that are read then.
        n_window: Tokens that are skimmed together.
        n_body: Tokens of the document that are read at most after skimming.
        n_chunk: Tokens that are read at once, so that a probe and the generation prompt have room behind them.
    """

    mode: ReadMode
    n_keep: int
    n_most: int
    n_resident: int
    n_cells: int
    n_predict: int
    n_positions: int
    n_window: int
    n_body: int
    n_chunk: int


def make_plan(
    prompt: Prompt,
    policy: Policy,
    budget: Budget,
    *,
    n_predict: int,
    n_ctx_train: int,
    one_shot: bool = False,
    allow_overflow: bool = False,
) -> Plan:
    """Choose how to read a prompt and to answer it with `n_predict` tokens.

    A prompt that fits the budget and a chunk is read at once. A share of a prompt that is skimmed is at most what the
    model sees at once. Raises `UsageError` if the budget is too small for the policy or for the question, and
    `TooLongError` if positions go beyond `n_ctx_train`.
    """
    n_prompt = len(prompt)
    # what looks at no attention has nothing to choose a part of a document by
    can_skim = policy.sees_attention and prompt.has_question and not one_shot
    n_keep = policy.cells_to_keep(budget, n_prompt)
    n_most = max(n_keep, budget.n_most(n_prompt))
    if can_skim and budget.is_flexible and n_prompt >= n_ctx_train and not allow_overflow:
        # a share of a long document, or what the machine has room for, can be more than the model sees at once
        n_seen = int((n_ctx_train - CHUNK - min(n_predict, n_ctx_train // 4)) / policy.max_share)
        n_keep, n_most = min(n_keep, max(n_seen, CHUNK)), min(n_most, max(n_seen, CHUNK))
    n_resident = min(n_prompt, math.ceil(n_most * policy.max_share))
    n_probe = policy.n_probe + len(ending_of(prompt))
    n_chunk = CHUNK - n_probe
    mode = ReadMode.FULL
    if not one_shot and n_prompt > n_resident + n_chunk:
        mode = _bounded_mode(policy, can_skim)
    n_reading = n_resident + CHUNK if mode != ReadMode.FULL else n_prompt + (n_probe if n_keep < n_prompt else 0)
    n_branch = policy.n_branch(n_keep) if n_keep < n_prompt else 0
    around = window_of(prompt)
    n_asked = len(around) + prompt.n_header
    n_body = n_resident + n_chunk - prompt.n_around
    n_window = min(n_resident + CHUNK - policy.n_probe - n_asked, max(N_SKIM - n_asked - 2 * N_LOOK_AHEAD, CHUNK))
    # skimming needs the question, the look-ahead and its probe beside the text
    n_beside = around.n_asking + 2 * N_LOOK_AHEAD
    if mode == ReadMode.SKIM and (n_beside > n_keep or min(n_body, n_window) < CHUNK // 8):
        least = max(n_beside, n_keep + CHUNK // 8 - min(n_body, n_window))
        raise UsageError(f"the question has {around.n_asking:,} tokens: set `kv_budget` to {least} cells or more")
    n_positions = n_resident + n_chunk if mode == ReadMode.SKIM else n_prompt
    _check_positions(mode, n_positions, n_ctx_train, allow_overflow)
    return Plan(
        mode=mode,
        n_keep=n_keep,
        n_most=n_most,
        n_resident=n_resident,
        n_cells=max(n_reading + n_branch, n_resident + prompt.n_end + n_predict),
        n_predict=n_predict if allow_overflow else min(n_predict, n_ctx_train - n_positions),
        n_positions=n_positions,
        n_window=n_window,
        n_body=n_body,
        n_chunk=n_chunk,
    )


def _bounded_mode(policy: Policy, can_skim: bool) -> ReadMode:
    """Return how a prompt is read that does not fit whole. Raises `UsageError` if it cannot be."""
    if policy.needs_whole_prompt:
        raise UsageError(f"{policy.name} cannot read in bounded memory: set `one_shot`", param="policy")
    return ReadMode.SKIM if can_skim else ReadMode.CHUNKED


def _check_positions(mode: ReadMode, n_positions: int, n_ctx_train: int, allow_overflow: bool) -> None:
    if n_positions >= n_ctx_train and not allow_overflow:
        remedy = "lower `kv_budget`" if mode == ReadMode.SKIM else "shorten the document"
        raise TooLongError(
            f"{n_positions:,} tokens are read at once, but the model was trained for {n_ctx_train:,}: "
            f"{remedy}, or set `allow_overflow` to go beyond"
        )
