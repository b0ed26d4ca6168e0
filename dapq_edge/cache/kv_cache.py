"""The cells of one sequence: read, probe, evict, look ahead, save."""

from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cells import BRANCH, CHUNK
from ..errors import DapqError, UnsupportedModelError
from ..llamacpp import context, native
from .look_ahead import LookAhead, Place
from .sequence import Keep, Marks, Sequence
from .sequence_cells import SequenceCells
from .state import SequenceState


class KVCache(SequenceCells):
    """The cells of one sequence of a llama.cpp context.

    Cells are counted from 0 in ascending position. After an eviction, a cell holds other tokens in each layer and KV
    head. Every change happens in llama.cpp first; then `sequence`, the ledger, is replaced.

    Args:
        ctx: The context of llama.cpp.
        seq_id: Its number of the sequence.

    Attributes:
        sequence: The ledger.
        has_logits: Whether the logits in the context are those of the last token.
        ending: Tokens that will be read before the answer, behind those that are here: the generation prompt.
        n_after: Cells that an eviction leaves free behind them: for an answer, or for the next chunk of a text.
        begins: How the answer begins, if that is known already.
        foreseen: How the answer begins, as `foresee` saw it last; None if other text was read or put back since.
    """

    def __init__(self, ctx: context.Context, seq_id: int = 0) -> None:
        super().__init__(ctx, seq_id)
        self.sequence = Sequence()
        self.has_logits = False
        self.ending: list[int] = []
        self.n_after = CHUNK
        self.begins: LookAhead | None = None
        self.foreseen: LookAhead | None = None
        self._is_shallow = False

    @property
    def answer_position(self) -> int:
        """Position of the first token of the answer."""
        return self.next_position + len(self.ending)

    @property
    def n_layer_most(self) -> int:
        """Cells that a layer can keep, so that what comes next has room."""
        return native.n_cells(self.ctx) - len(self.ending) - self.n_after

    @property
    def n_cells_mean(self) -> int:
        """Cells of the sequence, on average of the layers. Raises as `n_cells` does."""
        return self.n_cells - round(float(np.mean(self.sequence.n_missing or 0)))

    @property
    def used(self) -> tuple[int, int]:
        """Cells, on average of the layers, and bytes of the sequence; for a memory without cells, tokens."""
        try:
            return self.n_cells_mean, self.n_bytes
        except UnsupportedModelError:
            return self.sequence.n_positions, self.n_bytes

    def clear(self) -> None:
        """Free all cells of the sequence."""
        self._remove(-1)
        self.sequence, self.has_logits, self.foreseen = Sequence(), False, None

    def truncate(self, n_tokens: int) -> None:
        """Forget all tokens of the text after the first `n_tokens`.

        Recurrent layers keep their state; see `context.set_partial_state`. Raises ValueError if some of the tokens that
        stay are lost.
        """
        shorter = self.sequence.truncate(n_tokens)
        if shorter.n_tokens < self.sequence.n_tokens:
            self.has_logits = False
        self._remove(shorter.n_positions)
        self.sequence = shorter
        if self.foreseen and n_tokens < self.foreseen.start - len(self.foreseen.before):
            self.foreseen = None

    def mend(self) -> bool:
        """Bring llama.cpp and the ledger together after an exception in between; returns whether they agreed.

        What the ledger does not know is removed; if that is not possible, everything is.
        """
        if self._agrees():
            return True
        self.has_logits = False
        if not self.is_recurrent:
            self._remove(self.sequence.n_positions)
        if not self._agrees():
            self.clear()
        return False

    def _agrees(self) -> bool:
        if self.next_position != self.sequence.n_positions:
            return False
        try:
            return self.n_cells == self.sequence.n_cells
        except UnsupportedModelError:
            return True

    def _remove(self, pos: int) -> None:
        """Remove the cells from `pos` on; -1 is everything."""
        if pos >= 0 and self.is_recurrent:
            # a model without attention has no cells
            with suppress(UnsupportedModelError):
                native.seq_remove(self.ctx, self.seq_id, self.positions[self.positions >= pos])
        else:
            context.seq_rm(self.ctx, self.seq_id, pos)

    def read(self, tokens: Tokens[int] | npt.NDArray[Any], scores: npt.NDArray[np.float32] | None = None) -> None:
        """Evaluate `tokens` after the last cell; the logits of the last one stay in the context.

        Args:
            tokens: Token ids.
            scores: Gets the logits of all tokens, if it is given: float32 [tokens, n_vocab].

        Raises as `context.decode` does; the batches before are read then.
        """
        n_batch = context.n_batch(self.ctx)
        if self.foreseen and not self.foreseen.holds_behind(self.sequence.n_tokens, tokens):
            self.foreseen = None
        try:
            for start in range(0, len(tokens), n_batch):
                part = tokens[start : start + n_batch]
                n_logits = len(part) if scores is not None else int(not self._is_shallow)
                context.decode(self.ctx, self.seq_id, part, self.next_position, n_logits=n_logits)
                if scores is not None:
                    scores[start : start + len(part)] = context.all_logits(self.ctx, len(part))
                self.sequence, self.has_logits = self.sequence.append(part), n_logits > 0
        except BaseException:
            self.mend()
            raise

    def place(self, text: Tokens[int], text_index: npt.NDArray[np.intp]) -> None:
        """Say that what was read is a part of a longer text, see `Sequence.place`."""
        self.sequence, self.foreseen = self.sequence.place(text, text_index, self.logits.copy()), None

    def pin(self, tokens: npt.NDArray[np.intp]) -> None:
        """Say which tokens of the text are never evicted, those that are read later, too: integers, ascending."""
        self.sequence = replace(self.sequence, pinned=tokens)

    @contextmanager
    def before(self, ending: Tokens[int], n_answer: int, begins: LookAhead | None = None) -> Iterator[None]:
        """Look ahead as if `ending` had been read, which will be, and then an answer of `n_answer` tokens.

        `begins` is how the answer begins, if that is known: `foresee` gives it then.
        """
        before = self.ending, self.n_after, self.begins
        self.ending, self.n_after, self.begins = list(ending), n_answer, begins
        try:
            yield
        finally:
            self.ending, self.n_after, self.begins = before

    @contextmanager
    def first_layers(self, n_layers: int) -> Iterator[None]:
        """Evaluate only the first `n_layers` layers, and no logits; what was read so is removed at the end.

        Raises as `native.set_n_layer_eval` does.
        """
        try:
            self._is_shallow = True
            native.set_n_layer_eval(self.ctx, n_layers)
            yield
        finally:
            native.set_n_layer_eval(self.ctx, 0)
            self._is_shallow = False
            self.clear()

    def mark(self, marks: Marks) -> None:
        """Say what is known of the cells of each layer that can be evicted, see `Sequence.marks`."""
        self.sequence = replace(self.sequence, marks=marks)

    def note_document(self, has_document: bool) -> None:
        """Say whether the text has a part that is long enough to be read again for a question."""
        self.sequence = replace(self.sequence, has_document=has_document)

    def look_ahead(self, n_tokens: int, rows: npt.NDArray[np.float32] | None = None) -> tuple[list[int], float]:
        """Return the first tokens of the answer by greedy decoding, and how sure the model is of them, 0 to 1.

        That is the geometric mean of the probabilities of all but the first one. The answer ends with a token that says
        so, or after `n_tokens`. What comes before it is read, and all but its last token. `rows`, if it is given, gets
        the logits that gave each token: float32 [n_tokens, n_vocab].
        """
        self.read(self.ending)
        tokens: list[int] = []
        log_probabilities = []
        while True:
            logits = self.logits.astype(np.float64)
            if rows is not None:
                rows[len(tokens)] = self.logits
            tokens.append(int(np.argmax(logits)))
            log_probabilities.append(-np.log(np.exp(logits - logits.max()).sum()))
            if len(tokens) == n_tokens or context.is_end(self.ctx, tokens[-1]):
                # an answer may begin in many ways; what it says comes behind that
                return tokens, float(np.exp(np.mean(log_probabilities[1:] or log_probabilities)))
            self.read(tokens[-1:])

    def sees(self, pos: int) -> bool:
        """Return whether a token that was at `pos` can be probed again: all that it saw is still there."""
        return pos >= self.sequence.n_compacted and self.has_window_before(pos)

    def can_go_on(self, n_tokens: int) -> bool:
        """Return whether all that stands behind the first `n_tokens` tokens can be forgotten, and others be read.

        A sliding window may have lost what they see: of a sequence that was put back, or that is much longer.
        """
        position = int(np.searchsorted(self.sequence.text_index, n_tokens))
        return position in (0, self.sequence.n_positions) or self.has_window_before(position)

    def evict(self, keep: Keep, attention_kept: float | None = None) -> None:
        """Free all cells but those in `keep`, which move to the front.

        Args:
            keep: For each layer of `gathered_heads`, in order, the cells that each KV head keeps.
            attention_kept: What they hold, for the ledger.

        Raises as `native.seq_gather` does. If llama.cpp had no memory left to move the cells, they may all be gone; the
        ledger is then empty, too.
        """
        logits = self.logits.copy() if self.has_logits else None
        after = self.sequence.compact(keep, logits, attention_kept)
        try:
            native.seq_gather(self.ctx, self.seq_id, self.seq_id, keep)
        except DapqError:
            self.mend()
            raise
        self.sequence = after

    @contextmanager
    def branch(self, keep: Keep) -> Iterator["KVCache"]:
        """Make a sequence to look ahead on, with a copy of the cells in `keep`.

        It is removed at the end, and the logits are again those before it. Raises `DapqError` if the context has one
        sequence only, and as `native.seq_gather` does.
        """
        if context.n_seq_max(self.ctx) <= BRANCH:
            raise DapqError(f"a context of one sequence has no room for a branch: open it with n_seq_max={BRANCH + 1}")
        with self._logits_put_back():
            native.seq_gather(self.ctx, self.seq_id, BRANCH, keep)
            branch = KVCache(self.ctx, BRANCH)
            try:
                branch.sequence, branch.has_logits = self.sequence.compact(keep), self.has_logits
                branch.ending = self.ending
                yield branch
            finally:
                branch.clear()

    def peek(self, n_tokens: int, rows: npt.NDArray[np.float32] | None = None) -> tuple[list[int], float]:
        """Return what `look_ahead` gives; afterwards its cells are removed, and windows, states and logits put back."""
        place = self.here()
        try:
            return self.look_ahead(n_tokens, rows)
        finally:
            self.go_back(place)

    def foresee(self, n_tokens: int) -> Tokens[int]:
        """Return the first tokens of the answer; they, and their logits, are `foreseen` from then on.

        They are those of `begins`, if that is known, and those of `peek` otherwise.
        """
        if self.begins is None:
            rows = np.empty((n_tokens, self.n_vocab), dtype=np.float32)
            tokens, _ = self.peek(n_tokens, rows)
            self.foreseen = self.ahead(self.ending, tokens, rows)
        else:
            self.foreseen = self.begins
        return self.foreseen.tokens

    def ahead(self, ending: Tokens[int], tokens: Tokens[int], rows: npt.NDArray[np.float32]) -> LookAhead:
        """Return how an answer begins behind `ending`, which will be read next; `rows` are as `look_ahead` has them."""
        return LookAhead(ending, self.sequence.n_tokens + len(ending), tokens, rows[: len(tokens)])

    def here(self) -> Place:
        """Return the end of what was read, so that `go_back` forgets all that is read from now on.

        Sliding-window layers reuse the cells of older tokens, recurrent ones have one state. Raises `DapqError`
        if llama.cpp cannot save these.
        """
        has_more = bool(context.n_swa(self.ctx)) or self.is_recurrent
        state = context.partial_state(self.ctx, self.seq_id) if has_more else None
        logits = self.logits.copy() if self.has_logits else None
        return Place(self.next_position, self.sequence, self.foreseen, logits, state)

    def go_back(self, place: Place) -> None:
        """Forget what was read since `here` gave a place. Raises `DapqError` if llama.cpp cannot put states back."""
        self._remove(place.position)
        self.sequence, self.foreseen, self.has_logits = place.sequence, place.foreseen, False
        if place.state is not None and (self.is_recurrent or not self.has_window_before(place.position)):
            context.set_partial_state(self.ctx, self.seq_id, place.state)
        if place.logits is not None:
            self.put_logits(place.logits)

    @contextmanager
    def _logits_put_back(self) -> Iterator[None]:
        logits = self.logits.copy() if self.has_logits else None
        try:
            yield
        finally:
            self.has_logits = False
            if logits is not None:
                self.put_logits(logits)

    def put_logits(self, logits: npt.NDArray[np.float32]) -> None:
        """Make `logits` those of the last token, as if it had just been read: float32 [n_vocab]."""
        context.reserve_logits(self.ctx)
        self.logits[:] = logits
        self.has_logits = True

    def state(self, *, of_context: bool = False) -> SequenceState:
        """Return everything that the sequence is; `restore` puts it back.

        Args:
            of_context: Save the whole context, with the cells that left a sliding window: a probe at a position before
                the end needs them, going on with the text does not.

        Raises `DapqError` if llama.cpp cannot save it.
        """
        cells = context.context_state(self.ctx) if of_context else context.seq_state(self.ctx, self.seq_id)
        return SequenceState(self.sequence, self.logits.copy() if self.has_logits else None, cells, of_context)

    def restore(self, state: SequenceState) -> None:
        """Put back what `state` gave, into a context of the same model and types.

        Raises `DapqError`, and leaves an empty sequence, if llama.cpp refuses the cells.
        """
        self.clear()
        if state.is_context:
            context.set_context_state(self.ctx, state.cells)
        else:
            context.set_seq_state(self.ctx, self.seq_id, state.cells)
        self.sequence = state.sequence
        if state.logits is not None:
            self.put_logits(state.logits)
