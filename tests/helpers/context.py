"""A llama.cpp context in as few calls as a test needs, on the plain C API."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import llama_cpp
import numpy as np

TYPES = {
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # llama-cpp-python does not name it
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
}


class Context:
    """n_threads: of tiny models one is as fast as two, and far faster beside another process."""

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int = 512,
        n_ubatch: int = 512,
        n_seq_max: int = 1,
        kv_unified: bool = False,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: bool = True,
        n_gpu_layers: int = 0,
        n_threads: int = 1,
        pooling: int | None = None,
        on_tensor: Callable | None = None,
    ) -> None:
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = n_gpu_layers
        # an RPC server comes before a GPU, and is to have all of them
        model_params.split_mode = llama_cpp.LLAMA_SPLIT_MODE_NONE
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        assert self.model
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_ctx, n_ubatch
        params.n_seq_max, params.kv_unified = n_seq_max, kv_unified
        params.type_k, params.type_v = TYPES[type_k], TYPES[type_v]
        params.flash_attn_type, params.swa_full = int(flash_attn), False
        if pooling is not None:
            params.embeddings, params.pooling_type = True, pooling
        if on_tensor:
            params.cb_eval = self._on_tensor = llama_cpp.ggml_backend_sched_eval_callback(on_tensor)
        params.n_threads = params.n_threads_batch = n_threads
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        assert self.ctx
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def decode(self, tokens: Sequence[int], pos: int, seq_id: int = 0, *, logits: bool = True) -> int:
        """logits: of the last token."""
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, pos + i, 1
            batch.seq_id[i][0], batch.logits[i] = seq_id, logits and i == len(tokens) - 1
        code = llama_cpp.llama_decode(self.ctx, batch)
        llama_cpp.llama_batch_free(batch)
        return code

    @property
    def logits(self) -> np.ndarray:
        """Logits of the last token that was decoded."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.ctx, -1), shape=(self.n_vocab,)).copy()

    def state(self, seq_id: int = 0) -> bytes:
        size = llama_cpp.llama_state_seq_get_size(self.ctx, seq_id)
        buffer = (ctypes.c_uint8 * size)()
        assert llama_cpp.llama_state_seq_get_data(self.ctx, buffer, size, seq_id) == size
        return bytes(buffer)

    def set_state(self, state: bytes, seq_id: int = 0) -> None:
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        assert llama_cpp.llama_state_seq_set_data(self.ctx, buffer, len(state), seq_id) == len(state)

    def close(self) -> None:
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
