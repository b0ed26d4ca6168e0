"""llama.cpp contexts: cache types, and a context whose positions lag behind the tokens of a text."""

import llama_cpp
import numpy as np
from llama_cpp._internals import LlamaBatch, LlamaContext

# names of llama.cpp for --cache-type-k and --cache-type-v, with the values of enum ggml_type
CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q4_0": 2,
    "q4_1": 3,
    "iq4_nl": 20,
    "q5_0": 6,
    "q5_1": 7,
}

# the queries of a probe are one batch
MIN_BATCH = 64

# the KV cache of llama.cpp is padded to this many cells
N_CTX_PAD = 256


def pad(n_cells: int) -> int:
    """The number of cells that a context for `n_cells` has."""
    return -(-n_cells // N_CTX_PAD) * N_CTX_PAD


class ShiftedContext(LlamaContext):
    """A context whose callers count all tokens of a text, while its positions count those that were read.

    n_skipped: tokens before the next one that were not read.
    """

    n_skipped = 0

    def decode(self, batch: LlamaBatch) -> None:
        if self.n_skipped:
            pos = np.ctypeslib.as_array(batch.batch.pos, shape=(batch.batch.n_tokens,))
            pos -= self.n_skipped
        super().decode(batch)

    def kv_cache_seq_rm(self, seq_id: int, p0: int, p1: int) -> bool:
        p0, p1 = (max(0, pos - self.n_skipped) if pos >= 0 else pos for pos in (p0, p1))
        return super().kv_cache_seq_rm(seq_id, p0, p1)


def set_sequence_params(params: llama_cpp.llama_context_params, n_cells: int) -> None:
    """Set what a context needs for one sequence that is evicted, and for branches of it."""
    params.n_ctx = pad(n_cells)
    # a window cache of the size of the window, as the command line tools of llama.cpp have it
    params.swa_full = False
    # the sequences share the cells, so that a branch costs only what it copies
    params.n_seq_max, params.kv_unified = 2, True
