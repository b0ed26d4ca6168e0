"""Memory planning: what budget the memory has room for, before a model is loaded."""

import bisect
from dataclasses import dataclass

from ..cells import CHUNK, N_CTX_PAD, pad
from ..errors import DapqError
from .model_shape import MAX_CELLS, ModelShape
from .ram import MIB

# the part of the memory that stays free
MARGIN = 0.1


@dataclass(frozen=True)
class Choice:
    """Budget that `auto` gives a context of some length.

    n_most: cells of a prompt that can be kept at most. n_keep: where the budget of a longer prompt starts.
    is_full: whether the full cache fits.
    """

    n_most: int
    n_keep: int
    is_full: bool


def choose(shape: ModelShape, ram: int, n_ctx: int, type_k: str, type_v: str, n_batch: int) -> Choice:
    """Return what to keep of texts of up to `n_ctx` tokens in `ram` bytes.

    Raises `DapqError` if there is no room for the full cache, nor for the least that evicts: 256 cells and a chunk.
    """
    n_needed = pad(min(n_ctx, N_CTX_PAD + CHUNK))
    n_cells = most_cells(shape, ram, type_k, type_v, n_batch, n_needed)
    is_full = pad(n_ctx) <= n_cells
    n_most = n_ctx if is_full else n_cells - CHUNK
    return Choice(n_most, min(n_most, max(1024, n_ctx // 8)), is_full)


def usable(ram: int) -> int:
    """Return the bytes of `ram` that a process may take, so that some stay free."""
    return int(ram * (1 - MARGIN))


def most_cells(shape: ModelShape, ram: int, type_k: str, type_v: str, n_batch: int, n_least: int = N_CTX_PAD) -> int:
    """Return the largest multiple of 256 cells whose process takes at most 90% of `ram` bytes.

    Raises `DapqError` if there are less than `n_least`.
    """

    def needed(n_pads: int) -> int:
        return shape.total_bytes(n_pads * N_CTX_PAD, type_k, type_v, n_batch)

    room = usable(ram)
    n_cells = bisect.bisect_right(range(1, MAX_CELLS // N_CTX_PAD + 1), room, key=needed) * N_CTX_PAD
    if n_cells < n_least:
        raise DapqError(
            f"{n_least} cells need {needed(n_least // N_CTX_PAD) / MIB:,.0f} MiB, and there are {room / MIB:,.0f} MiB "
            f"({1 - MARGIN:.0%} of {ram / MIB:,.0f} MiB): take a smaller model, lower `n_batch`, "
            "or set `type_k=q8_0` `type_v=q8_0`"
        )
    return n_cells
