"""The cells of one sequence, as llama.cpp holds them: counted, probed, and their values."""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cells import LAYER_STEP, LAYER_STEP_GPU
from ..errors import DapqError, UnsupportedModelError
from ..llamacpp import context, native
from ..llamacpp.devices import gpus


@dataclass(frozen=True)
class LayerAttention:
    """Attention that a probe saw in one layer.

    Attributes:
        layer: Its number in the model.
        n_head_kv: Its KV heads.
        attention: float32 [query heads, cells], or [query heads, queries, cells] if it was not reduced.
    """

    layer: int
    n_head_kv: int
    attention: npt.NDArray[np.float32]


class SequenceCells:
    """The cells of one sequence of a llama.cpp context, without what is known of the text.

    Args:
        ctx: The context of llama.cpp.
        seq_id: Its number of the sequence.
    """

    def __init__(self, ctx: context.Context, seq_id: int = 0) -> None:
        self.ctx = ctx
        self.seq_id = seq_id

    @property
    def positions(self) -> npt.NDArray[np.int32]:
        """Position of each cell, ascending: int32 [cells]."""
        return native.seq_positions(self.ctx, self.seq_id)

    @property
    def n_cells(self) -> int:
        """Cells of the sequence, as llama.cpp counts them. Raises `UnsupportedModelError` if it has no cells."""
        return self.positions.size

    @property
    def next_position(self) -> int:
        """Position of the next token."""
        return context.next_position(self.ctx, self.seq_id)

    @property
    def layer_step(self) -> int:
        """By multiples of how many cells layers may differ."""
        return LAYER_STEP_GPU if gpus() else LAYER_STEP

    @property
    def n_bytes(self) -> int:
        """Bytes of the state of the sequence, as a file has it: K and V of all layers, and a few for each cell."""
        return context.state_size(self.ctx, self.seq_id)

    @property
    def allocated(self) -> tuple[int, int]:
        """Cells and bytes of K and V that the context has; for a memory without cells, tokens."""
        try:
            return native.n_cells(self.ctx), native.memory_bytes(self.ctx)
        except UnsupportedModelError:
            return context.n_ctx(self.ctx), native.memory_bytes(self.ctx)

    @property
    def is_recurrent(self) -> bool:
        """True if layers hold one state of all tokens, which cannot forget the last ones."""
        return context.is_recurrent(self.ctx)

    @property
    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""
        return context.n_vocab(self.ctx)

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """Logits of the last token that was read, until the next one: float32 [n_vocab]. Raises `DapqError` if none."""
        logits = context.logits(self.ctx)
        if logits is None:
            raise DapqError("the context has no logits: read a token first")
        return logits

    def probed_heads(self) -> dict[int, tuple[int, int]]:
        """Return {layer: (query heads, KV heads)} of the full-attention layers.

        Raises `UnsupportedModelError` if there are none.
        """
        heads = native.probe_heads(self.ctx)
        if not heads:
            raise UnsupportedModelError(native.NO_PROBE)
        return heads

    def gathered_heads(self) -> dict[int, int]:
        """Return {layer: KV heads} of the layers that can be evicted.

        Raises `UnsupportedModelError` if there are none.
        """
        heads = native.gather_heads(self.ctx)
        if not heads:
            raise UnsupportedModelError(native.NO_EVICTION)
        return heads

    @property
    def can_evict(self) -> bool:
        """True if the model can be probed, and its memory compacted."""
        return bool(native.gather_heads(self.ctx)) and bool(native.probe_heads(self.ctx))

    def probe(
        self, tokens: Tokens[int] | npt.NDArray[Any], pos: int, reduce: native.ProbeType = native.ProbeType.MEAN
    ) -> list[LayerAttention]:
        """Return the attention that `tokens` at `pos`, `pos` + 1, ... pay to the cells, for each full-attention layer.

        The cache is left as it was. Raises as `native.probe` does.
        """
        heads = self.probed_heads()
        rows = native.probe(self.ctx, self.seq_id, tokens, pos, reduce)
        return list(_split(rows, heads))

    def probe_layers(
        self,
        tokens: Tokens[int] | npt.NDArray[Any],
        pos: int,
        reduce: native.ProbeType,
        each: Callable[[LayerAttention], object],
    ) -> None:
        """Probe as `probe` does, one layer after the other: `each` is called with the attention of each.

        It is a view that is valid during the call only, and `each` must not use the cache. What it raises is raised.
        """
        heads = self.probed_heads()

        def report(layer: int, attention: npt.NDArray[np.float32]) -> None:
            each(LayerAttention(layer, heads[layer][1], attention))

        native.probe_layers(self.ctx, self.seq_id, tokens, pos, reduce, report)

    def has_window_before(self, pos: int) -> bool:
        """Return whether the sliding-window layers still have all that a token at `pos` sees in them."""
        n_swa = context.n_swa(self.ctx)
        return not n_swa or 0 <= context.first_position(self.ctx, self.seq_id) <= max(0, pos - n_swa + 1)

    def values(self, layer: int) -> npt.NDArray[np.float32]:
        """Return a copy of V of one layer of `gathered_heads`: float32 [KV heads, cells of the layer, head_dim].

        Raises as `native.seq_values` does.
        """
        return native.seq_values(self.ctx, self.seq_id, layer)

    def put_values(self, layer: int, values: npt.NDArray[Any]) -> None:
        """Replace V of one layer, rounded to the type of the cache. Raises as `native.set_seq_values` does.

        Args:
            layer: One of `gathered_heads`.
            values: Numbers [KV heads, cells of the layer, head_dim].
        """
        native.set_seq_values(self.ctx, self.seq_id, layer, values)


def _split(rows: npt.NDArray[np.float32], heads: dict[int, tuple[int, int]]) -> Iterator[LayerAttention]:
    """Divide the rows of a probe, which are query heads, into layers."""
    start = 0
    for layer, (n_head, n_head_kv) in heads.items():
        yield LayerAttention(layer, n_head_kv, rows[start : start + n_head])
        start += n_head
