"""Places: which characters of a text the tokens of a prompt spell. White space counts for nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SPACE = np.frombuffer(b" \t\n\r\v\f", dtype=np.uint8)


def visible(data: bytes) -> npt.NDArray[np.bool_]:
    """Return which bytes are no white space, which tokenizers add, take away, and spell: bool [bytes]."""
    is_visible = ~np.isin(np.frombuffer(data, dtype=np.uint8), _SPACE)
    for space in re.finditer("▁".encode(), data):
        is_visible[space.start() : space.end()] = False
    return is_visible


def n_visible(text: str) -> int:
    """Return the number of bytes of a text that are no white space."""
    return int(visible(text.encode("utf-8", "replace")).sum())


def visible_ends(pieces: Sequence[bytes], is_visible: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return how many bytes that are no white space the tokens up to each one spell: integers [tokens].

    Args:
        pieces: Bytes of each token.
        is_visible: Which of all of them are, see `visible`: bool [bytes].
    """
    counts = np.concatenate([[0], np.cumsum(is_visible)])
    ends: npt.NDArray[np.intp] = counts[np.cumsum([len(piece) for piece in pieces], dtype=int)]
    return ends


@dataclass(frozen=True)
class Place:
    """Tokens of a prompt that spell a text, and which characters of it each of them spells.

    Attributes:
        tokens: Those that spell any of it.
        starts: First character of each token: integers [tokens].
        stops: Character behind the last one of each token: integers [tokens].
    """

    tokens: range
    starts: npt.NDArray[np.intp]
    stops: npt.NDArray[np.intp]

    def tokens_of(self, start: int, stop: int) -> range:
        """Return the tokens that spell any of the characters `start` to `stop`."""
        first, last = np.searchsorted(self.stops, start, side="right"), np.searchsorted(self.starts, stop, side="left")
        return range(self.tokens.start + int(first), self.tokens.start + max(int(first), int(last)))


def find_place(pieces: Sequence[bytes], text: str) -> Place | None:
    """Return where tokens that spell `pieces` spell a text; None if they do not, or it has nothing but white space.

    The first place counts, if there are several.
    """
    data, spelled = text.encode("utf-8", "replace"), b"".join(pieces)
    is_shown, is_spelled = visible(data), visible(spelled)
    wanted, there = (
        np.frombuffer(part, dtype=np.uint8)[mask] for part, mask in ((data, is_shown), (spelled, is_spelled))
    )
    first = there.tobytes().find(wanted.tobytes()) if wanted.size else -1
    if first < 0:
        return None
    # visible bytes before the end of each token, counted from those of the text
    ends = visible_ends(pieces, is_spelled) - first
    start, last = np.searchsorted(ends, [0, wanted.size - 1], side="right").tolist()
    ends = np.clip(np.concatenate([[0], ends[start : last + 1]]), 0, wanted.size)
    # a character is where its first byte is
    characters = (np.cumsum((np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80) - 1)[is_shown]
    starts = characters[np.minimum(ends[:-1], wanted.size - 1)]
    stops = np.maximum(characters[np.maximum(ends[1:], 1) - 1] + 1, starts)
    return Place(range(start, last + 1), starts, stops)
