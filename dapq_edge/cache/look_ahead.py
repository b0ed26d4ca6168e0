"""The first tokens of an answer, which a policy looked ahead to before it evicted, and the place before them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .sequence import Sequence as Ledger


@dataclass(frozen=True)
class LookAhead:
    """Tokens of an answer by greedy decoding, and the logits that gave them.

    Attributes:
        before: Tokens that were not read when it was made, and stand between those that were and the answer.
        start: Tokens of the text before the answer.
        tokens: Of the answer.
        logits: Behind which each of them stands: float32 [tokens, n_vocab].
    """

    before: Sequence[int]
    start: int
    tokens: Sequence[int]
    logits: npt.NDArray[np.float32]

    def holds_behind(self, n_tokens: int, part: Sequence[int] | npt.NDArray[Any]) -> bool:
        """Return whether it still is what follows, when `part` is read behind a text of `n_tokens` tokens."""
        if n_tokens >= self.start:
            return True
        place = n_tokens - self.start + len(self.before)
        expected = self.before[place : place + len(part)]
        return list(part[: len(expected)]) == list(expected)

    def logits_at(self, n_tokens: int) -> npt.NDArray[np.float32] | None:
        """Return the logits behind a text of `n_tokens` tokens whose last ones are these: float32 [n_vocab]."""
        i = n_tokens - self.start
        return self.logits[i] if 0 <= i < len(self.tokens) else None

    def goes_on(self, n_tokens: int, part: Sequence[int]) -> bool:
        """Return whether `part` is its token behind a text of `n_tokens` tokens, and has a next one."""
        i = n_tokens - self.start
        return len(part) == 1 and 0 <= i < len(self.tokens) - 1 and self.tokens[i] == part[0]


@dataclass(frozen=True)
class Place:
    """The end of what was read, to which a sequence can go back, see `KVCache.here`.

    Attributes:
        position: Of the next token.
        sequence: The ledger.
        foreseen: How the answer begins, see `KVCache`.
        logits: Of the last token: float32 [n_vocab]; None if there are none.
        state: What the next token sees of recurrent and of sliding-window layers; None without such layers.
    """

    position: int
    sequence: Ledger
    foreseen: LookAhead | None
    logits: npt.NDArray[np.float32] | None
    state: npt.NDArray[np.uint8] | None
