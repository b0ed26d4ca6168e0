"""One sequence's KV cache: what it holds, the probe, the eviction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import llama_cpp
import numpy as np
import numpy.typing as npt

from . import native
from .errors import UnsupportedModelError


@dataclass(frozen=True)
class LayerAttention:
    """What a probe saw in one layer.

    attention: float32 [query heads, cells], or [query heads, queries, cells] if it was not reduced.
    """

    layer: int
    n_head_kv: int
    attention: npt.NDArray[np.float32]


class KVCache:
    """The cells of one sequence of a llama.cpp context.

    A cell is a slot of the KV cache: one position, all layers. Cells are counted from 0 in ascending position.
    """

    def __init__(self, ctx: llama_cpp.llama_context_p, seq_id: int = 0) -> None:
        self.ctx = ctx
        self.seq_id = seq_id

    @property
    def positions(self) -> npt.NDArray[np.int32]:
        """Position of each cell, ascending: int32 [cells]."""
        return native.seq_positions(self.ctx, self.seq_id)

    @property
    def n_cells(self) -> int:
        return self.positions.size

    @property
    def n_bytes(self) -> int:
        """Bytes of the K and V data of the sequence, in all layers."""
        return native.seq_bytes(self.ctx, self.seq_id)

    def probed_heads(self) -> dict[int, tuple[int, int]]:
        """{layer: (query heads, KV heads)} of the full-attention layers. Raises `UnsupportedModelError` if none."""
        heads = native.probe_heads(self.ctx)
        if not heads:
            raise UnsupportedModelError("this model cannot be probed: use --policy full or streaming")
        return heads

    def probe(
        self, tokens: Sequence[int] | npt.NDArray, pos: int, reduce: native.ProbeType = native.ProbeType.MEAN
    ) -> list[LayerAttention]:
        """Attention that `tokens` at `pos`, `pos` + 1, ... pay to the cells, for each full-attention layer.

        The cache is left as it was. Raises as `native.probe` does.
        """
        heads = self.probed_heads()
        rows = native.probe(self.ctx, self.seq_id, tokens, pos, reduce)
        return list(self._split(rows, heads))

    @staticmethod
    def _split(rows: npt.NDArray[np.float32], heads: dict[int, tuple[int, int]]) -> Iterator[LayerAttention]:
        start = 0
        for layer, (n_head, n_head_kv) in heads.items():
            yield LayerAttention(layer, n_head_kv, rows[start : start + n_head])
            start += n_head

    def evict(self, keep: npt.NDArray[np.intp]) -> int:
        """Free all cells but those in `keep` (cell indices, sorted); returns how many were freed."""
        positions = self.positions
        return native.seq_remove(self.ctx, self.seq_id, np.delete(positions, keep))
