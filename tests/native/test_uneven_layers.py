"""Layers that keep different numbers of cells, next to other sequences and after them."""

import llama_cpp
import numpy as np
import pytest
from helpers.context import Context
from helpers.gathered import N_KEEP, UNEVEN, Reference, assert_same_logits, random_keep, remove
from helpers.tiny import Spec
from helpers.tokens import N_PROMPT, PROBE, PROMPT, random_tokens

from dapq_edge.errors import DapqError
from dapq_edge.llamacpp import native


def test_uneven_gathers_that_are_refused(tiny_model):
    """As copies, in separate caches, where another sequence is in the way, and of cells that a layer lacks."""
    path = tiny_model(Spec())
    for unified, src, dst in ((False, 0, 0), (True, 0, 1), (True, 2, 2)):
        with Context(path, n_seq_max=3, kv_unified=unified) as c:
            for seq_id in (0, 2):
                assert c.decode(PROMPT, 0, seq_id) == 0
            before = [c.state(seq_id) for seq_id in range(3)]
            with pytest.raises(DapqError):
                native.seq_gather(c.ctx, src, dst, random_keep(c, UNEVEN, seq_id=src))
            assert [c.state(seq_id) for seq_id in range(3)] == before
    with Context(path, n_seq_max=2, kv_unified=True) as c:
        assert c.decode(PROMPT, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, UNEVEN))
        before = c.state()
        for cells in ([11, 15], [0, 19]):
            for dst in (0, 1):
                with pytest.raises(DapqError):
                    native.seq_gather(c.ctx, 0, dst, [np.tile(cells, (2, 1))] * 3)
        assert c.state() == before
        native.seq_gather(c.ctx, 0, 1, [np.tile([12, 15], (2, 1))] * 3)
        assert c.state() == before
        native.seq_gather(c.ctx, 0, 0, [np.tile([12, 15], (2, 1))] * 3)


@pytest.mark.parametrize("flash_attn", [False, True])
def test_uneven_layers_next_to_another_sequence(tiny_model, flash_attn):
    """What happens to the other one does not bring back the cells that the layers lack."""
    spec = Spec()
    reference = Reference(spec, PROMPT)
    with Context(tiny_model(spec), n_seq_max=3, kv_unified=True, flash_attn=flash_attn) as c:
        assert c.decode(PROMPT, 0) == 0
        keep = random_keep(c, UNEVEN)
        native.seq_gather(c.ctx, 0, 0, keep)
        reference.gather(keep)
        before = c.state()
        assert c.decode(PROMPT[::-1], 0, seq_id=1) == 0
        native.seq_gather(c.ctx, 1, 1, random_keep(c, N_KEEP, seq_id=1))
        native.seq_gather(c.ctx, 1, 2, random_keep(c, 10, seq_id=1))
        assert c.state() == before
        assert remove(c, 1)
        assert remove(c, 2)
        assert c.state() == before
        reference.decode(PROBE, N_PROMPT)
        assert c.decode(PROBE, N_PROMPT) == 0
        assert_same_logits(c.logits, reference.logits, 0.02)


@pytest.mark.parametrize("how", ["seq_rm", "seq_keep", "clear", "gather"])
def test_all_cells_are_used_again_after_uneven_layers(tiny_model, how):
    path, tokens = tiny_model(Spec()), random_tokens(256, 10)
    with Context(path, n_ctx=256, n_seq_max=2, kv_unified=True) as c, Context(path, n_ctx=256) as fresh:
        assert c.decode(tokens, 0) == fresh.decode(tokens, 0) == 0
        native.seq_gather(c.ctx, 0, 0, random_keep(c, UNEVEN))
        assert c.decode(random_tokens(237, 11), 256) == 1
        if how == "gather":
            native.seq_gather(c.ctx, 0, 0, random_keep(c, 5, missing=[0, 12, 7]))
            assert c.decode(random_tokens(252, 11), 256) == 1
            assert c.decode(random_tokens(251, 11), 256) == 0
            return
        if how == "seq_rm":
            assert remove(c, 0)
        elif how == "seq_keep":
            llama_cpp.llama_memory_seq_keep(c.memory, 1)
        else:
            llama_cpp.llama_memory_clear(c.memory, False)
        assert c.decode(tokens, 0) == 0
        assert c.logits.tobytes() == fresh.logits.tobytes()


@pytest.mark.parametrize("flash_attn", [False, True])
def test_layers_that_lack_other_cells_than_before(tiny_model, flash_attn):
    """Graphs of the same sizes with other masks in the layers are no reason to use the memory of one too early."""
    path, tokens = tiny_model(Spec(n_layer=8)), random_tokens(400, 12)

    def decode(c: Context, counts: list[int], n_tokens: int) -> np.ndarray:
        c.set_state(prompt)
        native.seq_gather(c.ctx, 0, 0, random_keep(c, counts))
        assert c.decode(tokens[-n_tokens:], 400) == 0
        return c.logits

    options = {"n_ctx": 512, "n_seq_max": 2, "kv_unified": True, "flash_attn": flash_attn}
    before, after = [300, 100, 200, 200, 200, 200, 200, 200], [300, 100, 200, 200, 200, 200, 200, 100]
    with Context(path, **options) as c, Context(path, **options) as fresh:
        assert c.decode(tokens, 0) == 0
        prompt = c.state()
        decode(c, before, 40)
        llama_cpp.llama_memory_clear(c.memory, False)
        assert decode(c, after, 32).tobytes() == decode(fresh, after, 32).tobytes()
