"""Writes an answer, and measures it."""

import time
from dataclasses import dataclass

from ..reading.engine import Engine


@dataclass(frozen=True)
class Written:
    """An answer.

    Attributes:
        text: All of it.
        first: When its first token was there, by `time.perf_counter`; when it ended, if it is empty.
        tps: Tokens in a second behind the first one, of those that were not written before; None if there are none.
    """

    text: str
    first: float
    tps: float | None


def write_answer(engine: Engine, n_predict: int, temp: float, is_shown: bool) -> Written:
    """Answer what was read, with `n_predict` tokens at most; print it as it comes, if it `is_shown`."""
    pieces, times = [], []
    try:
        for piece in engine.stream(n_predict, temp=temp):
            times.append(time.perf_counter())
            pieces.append(piece)
            if is_shown:
                print(piece, end="", flush=True)
    except BaseException:
        if is_shown and pieces:
            # why it ends does not belong to it
            print(flush=True)
        raise
    if is_shown:
        print(flush=True)
    times = times or [time.perf_counter()]
    seconds = times[-1] - times[0]
    n_written = len(times) - max(1, engine.n_foreseen)
    tps = round(n_written / seconds, 2) if seconds and n_written > 0 else None
    return Written("".join(pieces).strip(), times[0], tps)
