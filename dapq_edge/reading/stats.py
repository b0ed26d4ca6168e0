"""What reading cost, and what a sequence takes."""

from dataclasses import dataclass

from .plan import ReadMode
from .strategies import Chunk


@dataclass(frozen=True)
class ReadStats:
    """How a prompt was read, and what it cost.

    Attributes:
        mode: See `ReadMode`.
        is_compact: Whether positions count only the tokens that were read after skimming.
        chunks: Those of a document that was skimmed.
        tokens_evaluated: With the chunks that were read twice and their questions.
        n_predict: Tokens of the answer at most.
        cells_peak: Cells of the context while it was read, used or free.
        cells_kept: Of the prompt, after eviction.
        bytes_peak: K and V of `cells_peak`.
        bytes_kept: K and V of `cells_kept`.
        attention_kept: The share of the attention that the kept cells hold; None if nothing was evicted.
        evict_seconds: What all evictions took.
        seconds: All of it.
    """

    mode: ReadMode
    is_compact: bool
    chunks: list[Chunk]
    tokens_evaluated: int
    n_predict: int
    cells_peak: int
    cells_kept: int
    bytes_peak: int
    bytes_kept: int
    attention_kept: float | None
    evict_seconds: float
    seconds: float


@dataclass(frozen=True)
class Usage:
    """What the sequence takes now, and what was done since the model was opened.

    Attributes:
        n_tokens: Of the text.
        n_cells_used: Cells of the sequence.
        n_cells: Cells of the context.
        bytes_used: K and V of the sequence.
        bytes_allocated: K and V of the context.
        n_evictions: Prompts and conversations that were evicted.
        n_rereads: Prompts that were read again, because what was kept did not serve a new question.
        attention_kept: The share of the attention that the cells of the last eviction hold.
    """

    n_tokens: int
    n_cells_used: int
    n_cells: int
    bytes_used: int
    bytes_allocated: int
    n_evictions: int
    n_rereads: int
    attention_kept: float | None
