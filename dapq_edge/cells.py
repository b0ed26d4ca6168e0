"""Numbers of cells that several rooms have to agree on. A cell is a slot of the KV cache: one position, all layers."""

# first cells that draw attention whatever they hold (StreamingLLM, arXiv 2309.17453)
N_SINK = 4

# last cells that every policy keeps
N_RECENT = 8

# cells beside the budget: a chunk of the text, and the probe after it
CHUNK = 512

# by multiples of how many cells layers differ: so that all backends can start there (`llama_memory_seq_gather`), and as
# CUDA's fast attention has it
LAYER_STEP, LAYER_STEP_GPU = 32, 256

# sequences of a context: the one that is read, and a branch of it
N_SEQ, BRANCH = 2, 1

# tokens that are read at once, at least: the queries of a probe are one batch
MIN_BATCH = 64

# the KV cache of llama.cpp is padded to this many cells
N_CTX_PAD = 256


def pad(n_cells: int) -> int:
    """Return the number of cells that a context for `n_cells` has."""
    return -(-n_cells // N_CTX_PAD) * N_CTX_PAD
