"""Changing the number of cells of a context."""

import resource

import psutil
import pytest
from helpers.context import Context
from helpers.gathered import ARCHS, assert_same_logits, random_keep, remove, steps
from helpers.limits import limited
from helpers.tiny import Spec
from helpers.tokens import N_PROMPT, PROBE, PROMPT, random_tokens

from dapq_edge.errors import DapqError
from dapq_edge.llamacpp import native


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize(("name", "unified"), [("even", False), ("even", True), ("uneven", True), ("mixed", True)])
def test_resize_after_a_gather(tiny_model, arch, flash_attn, name, unified):
    """Down to what is used and up again: only the memory changes."""
    spec, options = ARCHS[arch], {"n_ctx": 2048, "n_seq_max": 2, "kv_unified": unified, "flash_attn": flash_attn}
    n_keep, pos, other = steps(spec, name)[0], N_PROMPT + len(PROBE), random_tokens(300, 11)
    with Context(tiny_model(spec), **options) as c, Context(tiny_model(spec), **options) as stock:
        for context in (c, stock):
            assert context.decode(PROMPT, 0) == 0
            native.seq_gather(context.ctx, 0, 0, random_keep(context, n_keep))
            assert context.decode(other, 0, seq_id=1) == 0
            for i, token in enumerate(PROBE):
                assert context.decode([token], N_PROMPT + i) == 0
        before = c.state(0), c.state(1), c.logits.tobytes()
        n_cells, size = native.n_cells(c.ctx), native.memory_bytes(c.ctx)
        n_free = 512 - 20 - len(PROBE) - (len(other) if unified else 0)
        assert n_cells == (2048 if unified else 1024)
        for n in (256, 1, 0, -1, -(2**31)):
            with pytest.raises(DapqError):
                native.resize(c.ctx, n)
        assert (native.n_cells(c.ctx), native.memory_bytes(c.ctx)) == (n_cells, size)
        row = spec.n_head_kv * spec.head_dim * 2
        missing = [] if name == "even" else [max(n_keep) - n for n in n_keep]
        for n, wanted in ((768, 515), (512, 512), (512, 257)):
            native.resize(c.ctx, wanted)
            freed = (n_cells - n) * (1 if unified else 2) * len(spec.full_layers) * 2 * row
            # the first tensor cannot leave out its first cells, and a transposed V has no rows
            least = freed + row * (sum(missing[1:]) + flash_attn * sum(missing))
            assert native.n_cells(c.ctx) == n
            assert least <= size - native.memory_bytes(c.ctx) <= least + row * sum(missing[:1])
            assert (c.state(0), c.state(1), c.logits.tobytes()) == before
        for context in (c, stock):
            assert context.decode(random_tokens(n_free, 12), pos) == 0
        assert c.decode(PROBE[:1], pos + n_free) == 1
        before = c.state(0), c.state(1)
        native.resize(c.ctx, 513)
        assert (native.n_cells(c.ctx), c.state(0), c.state(1)) == (768, *before)
        for i, token in enumerate(random_tokens(10, 13)):
            for context in (c, stock):
                assert context.decode([token], pos + n_free + i) == 0
            assert_same_logits(c.logits, stock.logits)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flash_attn", [False, True])
def test_resize_of_an_empty_context(tiny_model, arch, flash_attn):
    """Up to more cells than at first, and after layers were uneven."""
    path, tokens = tiny_model(ARCHS[arch]), random_tokens(768, 13)
    options = {"flash_attn": flash_attn, "n_ubatch": 64}
    with Context(path, n_ctx=1024, **options) as stock, Context(path, n_ctx=1024, **options) as c:
        assert stock.decode(tokens, 0) == 0
        native.resize(c.ctx, 512)
        assert c.decode(tokens[:512], 0) == 0
        assert c.decode(tokens[512:], 512) == 1
        native.seq_gather(c.ctx, 0, 0, random_keep(c, steps(ARCHS[arch], "uneven")[0]))
        native.resize(c.ctx, 256)
        assert remove(c, 0)
        native.resize(c.ctx, 768)
        assert c.decode(tokens, 0) == 0
        assert c.decode(tokens[:1], 768) == 1
        assert_same_logits(c.logits, stock.logits)


def test_resize_beyond_the_memory(tiny_model):
    with Context(tiny_model(Spec())) as c:
        assert c.decode(PROMPT, 0) == 0
        before, size = c.state(), native.memory_bytes(c.ctx)
        with limited(resource.RLIMIT_AS, psutil.Process().memory_info().vms + (4 << 30)):
            for n_cells in (2**31 - 1, 2**28):
                with pytest.raises(DapqError, match="not enough memory"):
                    native.resize(c.ctx, n_cells)
        assert (c.state(), native.n_cells(c.ctx), native.memory_bytes(c.ctx)) == (before, 512, size)
        assert c.decode(PROBE, N_PROMPT) == 0
