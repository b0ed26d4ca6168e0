"""Evaluation of the first layers only: their K and V, and what they attend to, are those of a whole evaluation."""

import struct

import llama_cpp
import numpy as np
import pytest
from helpers.context import Context
from helpers.families import FAMILIES, REFUSED
from helpers.gathered import assert_same_logits, cells_of, keep_all, load, load_whole, remove, whole_state
from helpers.tiny import Spec
from helpers.tokens import N_PROMPT, PROBE, PROMPT

from dapq_edge.errors import DapqError, UnsupportedModelError
from dapq_edge.llamacpp import native
from dapq_edge.llamacpp.native import ProbeType

SUPPORTED = [name for name in FAMILIES if name not in REFUSED]


def attention(c: Context) -> dict[int, bytes]:
    """Of each layer that a probe reports, of each token."""
    rows, heads = native.probe(c.ctx, 0, PROBE, N_PROMPT, ProbeType.NONE), native.probe_heads(c.ctx)
    first = np.cumsum([0, *(n_head for n_head, _ in heads.values())])
    return {il: rows[i:j].tobytes() for il, i, j in zip(heads, first[:-1], first[1:], strict=True)}


def blocks(state: bytes, n_layers: int) -> list[bytes]:
    """K, then V if there is one, of the first layers in the cache of the layers with full attention."""
    offset, found = 8, []

    def take(size: int) -> bytes:
        nonlocal offset
        offset += size
        return state[offset - size : offset]

    def read(code: str) -> tuple:
        return struct.unpack(f"<{code}", take(struct.calcsize(f"<{code}")))

    _, count = read("II")
    has_marks, count = count >> 31, count & 2**31 - 1
    if has_marks:
        assert read("II") == (2, 0)
    # x, y and token, and the marks: the former in models with M-RoPE
    cells = count * (12 + (20 if has_marks else 0))
    n_all = struct.unpack_from("<II", state, offset + cells)
    if n_all[0] > 1 or not 0 < n_all[1] < 100:
        cells += count * 12
    take(cells)
    _, n_all = read("II")
    for i in range(2 * n_all):
        if i >= n_all and offset + 12 > len(state):
            break
        header = take(12)
        size = struct.unpack("<iQ", header)[1]
        if i >= n_all and not 0 < size < 10**5:
            break
        if i % n_all < n_layers or not has_marks:
            data = header + take(count * size)
            found += [data] if i % n_all < n_layers else []
    return found


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("name", SUPPORTED)
def test_first_layers_are_as_in_a_whole_evaluation(family_model, name, flash_attn):
    family, path = FAMILIES[name], family_model(name)
    with Context(path, flash_attn=flash_attn) as whole, Context(path, flash_attn=flash_attn) as c:
        assert whole.decode(PROMPT, 0) == 0
        expected, stored = attention(whole), whole.state()
        for n_layer in range(1, family.n_layer):
            native.set_n_layer_eval(c.ctx, n_layer)
            assert c.decode(PROMPT, 0, logits=False) == 0
            layers = [il for il in family.full_layers if il < n_layer]
            assert list(native.probe_heads(c.ctx)) == layers
            if layers:
                assert attention(c) == {il: expected[il] for il in layers}
                if flash_attn:
                    # MLA has no V
                    found = blocks(c.state(), len(layers))
                    assert found == blocks(stored, len(layers))
                    assert len(found) == len(layers) * (1 if name == "deepseek2" else 2)
            # the probe of all layers needs what is not there
            native.set_n_layer_eval(c.ctx, 0)
            with pytest.raises(DapqError):
                native.probe(c.ctx, 0, PROBE, N_PROMPT)
            llama_cpp.llama_memory_clear(c.memory, False)
        assert c.decode(PROMPT, 0) == 0
        assert c.logits.tobytes() == whole.logits.tobytes()
        assert attention(c) == expected


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
@pytest.mark.parametrize("flash_attn", [False, True])
def test_a_part_of_a_prompt(tiny_model, arch, flash_attn):
    """Behind cells of all layers, in several batches, and one token at a time."""
    spec = Spec(arch=arch, n_layer=4)
    options = {"flash_attn": flash_attn, "n_ubatch": 16}
    with Context(tiny_model(spec), **options) as c, Context(tiny_model(spec), **options) as whole:
        assert whole.decode(PROMPT[:20], 0) == whole.decode(PROMPT[20:70], 20) == 0
        for i in range(70, N_PROMPT):
            assert whole.decode(PROMPT[i : i + 1], i) == 0
        assert c.decode(PROMPT[:20], 0) == 0
        before, logits = c.state(), c.logits
        native.set_n_layer_eval(c.ctx, 2)
        assert c.decode(PROMPT[20:70], 20, logits=False) == 0
        for i in range(70, N_PROMPT):
            assert c.decode(PROMPT[i : i + 1], i, logits=False) == 0
        full = cells_of(whole, 0)[0]
        actual = cells_of(c, 0)[0]
        assert actual.n_layer == 2
        n_full = len(spec.full_layers)
        for il in range(sum(il < 2 for il in spec.full_layers)):
            for i in (il, n_full + il):
                assert actual.data[i].tobytes() == full.data[i].tobytes()
        native.set_n_layer_eval(c.ctx, 0)
        if arch == "llama":
            assert remove(c, 0, 20)
            assert c.state() == before
            assert c.decode(PROMPT[20:21], 20) == whole.decode(PROMPT[:1], N_PROMPT) == 0
            assert not np.array_equal(c.logits, logits)


def test_cells_without_layers_are_refused(tiny_model):
    """Until they are removed, also in a copy, in a gathered sequence and in a state."""
    with Context(tiny_model(Spec(n_layer=4)), n_seq_max=2, kv_unified=True) as c:
        assert c.decode(PROMPT[:30], 0) == 0
        before = c.state()
        native.set_n_layer_eval(c.ctx, 3)
        # there are no logits
        assert c.decode(PROMPT[30:], 30) == -1
        assert c.state() == before
        assert c.decode(PROMPT[30:50], 30, logits=False) == 0
        native.set_n_layer_eval(c.ctx, 2)
        assert c.decode(PROMPT[50:], 50, logits=False) == 0
        limited, everything = c.state(), whole_state(c)

        def is_refused(seq_id: int, n_layer: int) -> bool:
            native.set_n_layer_eval(c.ctx, n_layer)
            state = c.state(seq_id)
            if c.decode(PROBE, N_PROMPT, seq_id, logits=n_layer == 0) == 0:
                native.probe(c.ctx, seq_id, PROBE, N_PROMPT + len(PROBE))
                assert remove(c, seq_id, N_PROMPT)
                return False
            with pytest.raises(DapqError):
                native.probe(c.ctx, seq_id, PROBE, N_PROMPT)
            assert c.state(seq_id) == state
            return True

        assert [is_refused(0, n) for n in (0, 3, 2, 1)] == [True, True, False, False]
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
        assert [is_refused(1, n) for n in (0, 3, 2)] == [True, True, False]
        assert remove(c, 1)
        native.seq_gather(c.ctx, 0, 1, keep_all(c))
        assert [is_refused(1, n) for n in (0, 2)] == [True, False]
        assert load(c, limited, 1) == len(limited)
        assert c.state(1) != c.state(0)  # the number of the sequence
        assert [is_refused(1, n) for n in (0, 3, 2)] == [True, True, False]
        assert load_whole(c, everything) == len(everything)
        assert [is_refused(0, n) for n in (0, 3, 2)] == [True, True, False]
        # without the part of two layers, three can go on
        assert remove(c, 0, 50)
        native.set_n_layer_eval(c.ctx, 3)
        assert c.decode(PROMPT[50:60], 50, logits=False) == 0
        assert remove(c, 0, 30)
        native.set_n_layer_eval(c.ctx, 0)
        assert c.state() == before
        assert c.decode(PROMPT[30:], 30) == 0


def test_a_state_has_the_rows_of_its_layers_only(tiny_model):
    """If all of its cells lack the others."""
    spec = Spec(n_layer=4)
    with Context(tiny_model(spec)) as c:
        assert c.decode(PROMPT, 0) == 0
        size = len(c.state())
        assert remove(c, 0)
        native.set_n_layer_eval(c.ctx, 1)
        assert c.decode(PROMPT, 0, logits=False) == 0
        layer = N_PROMPT * 2 * spec.n_head_kv * spec.head_dim * 2
        assert size - 3 * layer <= len(c.state()) <= size - 3 * layer + 20 * N_PROMPT + 8


@pytest.mark.parametrize("name", ["gemma2", "lfm2", "qwen3next"])
def test_cells_without_layers_are_not_removed_from_some_layers_only(family_model, name):
    """The windows and the recurrent states would keep them."""
    with Context(family_model(name)) as c:
        assert c.decode(PROMPT[:30], 0) == 0
        native.set_n_layer_eval(c.ctx, 2)
        assert c.decode(PROMPT[30:], 30, logits=False) == 0
        before = c.state()
        with pytest.raises(DapqError):
            native.seq_remove(c.ctx, 0, range(30, N_PROMPT))
        assert c.state() == before


@pytest.mark.parametrize("name", ["lfm2", "qwen3next", "qwen35, text"])
def test_recurrent_states_of_other_sequences_stay(family_model, name):
    """A batch of two sequences, between which a third one stands."""
    with Context(family_model(name), n_seq_max=3, kv_unified=True) as c:
        for seq_id in range(3):
            assert c.decode(PROMPT[seq_id:], 0, seq_id) == 0
        before = c.state(1)
        native.set_n_layer_eval(c.ctx, 2)
        batch = llama_cpp.llama_batch_init(2, 0, 1)
        batch.n_tokens = 2
        for i, seq_id in enumerate((0, 2)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = PROBE[0], N_PROMPT - seq_id, 1
            batch.seq_id[i][0], batch.logits[i] = seq_id, False
        assert llama_cpp.llama_decode(c.ctx, batch) == 0
        llama_cpp.llama_batch_free(batch)
        assert c.state(1) == before


def test_another_sequence_goes_on(tiny_model):
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as c:
        native.set_n_layer_eval(c.ctx, 1)
        assert c.decode(PROMPT, 0, logits=False) == 0
        native.set_n_layer_eval(c.ctx, 0)
        assert c.decode(PROMPT, 0, seq_id=1) == 0
        logits = c.logits
        assert remove(c, 0)
        assert c.decode(PROMPT, 0) == 0
        assert_same_logits(c.logits, logits)


def test_invalid_numbers_and_models(tiny_model, recurrent_model):
    with Context(tiny_model(Spec())) as c:
        for n_layer in (-1, 4, 2**31 - 1, -(2**31)):
            with pytest.raises(DapqError):
                native.set_n_layer_eval(c.ctx, n_layer)
        # all layers are no limit
        native.set_n_layer_eval(c.ctx, 3)
        assert c.decode(PROMPT, 0) == 0
    with Context(recurrent_model) as c, pytest.raises(UnsupportedModelError):
        native.set_n_layer_eval(c.ctx, 1)
