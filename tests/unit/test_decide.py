"""What is done with a prompt: a table of sequences, prompts and limits."""

from dataclasses import replace

import numpy as np
import pytest

from dapq_edge import Sequence
from dapq_edge.reading.decide import N_ANSWER, Append, Limits, Reread, Reuse, decide

LIMITS = Limits(
    n_most=100,
    n_cells=612,
    n_working=32,
    n_ctx=4096,
    n_ctx_train=4096,
    can_skim=True,
    is_recurrent=False,
    has_logits=True,
)
LOGITS = np.ones(4, np.float32)


def plain(n):
    return Sequence().append(range(n))


def evicted(n, n_more=0):
    """`n` tokens of which 100 cells are left, and some behind them."""
    return plain(n).compact([np.arange(100)[None]], LOGITS).append(range(n, n + n_more))


def skimmed(n, n_read):
    """A text of which only the first `n_read` tokens were read."""
    return plain(n_read).place(range(n), np.arange(n_read), LOGITS)


@pytest.mark.parametrize(
    ("sequence", "tokens", "limits", "expected"),
    [
        # nothing is there yet
        (Sequence(), range(50), {}, Append(0)),
        (Sequence(), range(400), {}, Append(0)),
        (Sequence(), range(581), {}, Reread()),
        (Sequence(), range(3000), {}, Reread()),
        (Sequence(), range(3000), {"can_skim": False}, Append(0)),
        (Sequence(), range(3000), {"n_most": 4096, "n_cells": 4096}, Append(0)),
        # the same prompt again, with and without its logits
        (plain(50), range(50), {}, Reuse(50)),
        (plain(50), range(50), {"has_logits": False}, Append(49)),
        (evicted(500), range(500), {}, Reuse(500)),
        (evicted(500), range(500), {"has_logits": False}, Reuse(500)),
        (evicted(500, 8), range(500), {}, Reuse(500)),
        (evicted(500, 8), range(508), {}, Reuse(508)),
        (evicted(500, 8), range(508), {"has_logits": False}, Append(507, may_reread=True)),
        (replace(evicted(500, 8), logits_at_eviction=None), range(500), {}, Reread()),
        # a longer one
        (plain(50), range(60), {}, Append(50)),
        (evicted(500, 8), range(520), {}, Append(508, may_reread=True)),
        (evicted(500, 8), range(508 + 480), {}, Append(508, may_reread=True)),
        (evicted(500, 8), range(508 + 481), {}, Reread()),
        (evicted(500, 8), range(508 + 481), {"can_skim": False}, Append(508, may_reread=True)),
        (skimmed(900, 300), range(930), {}, Append(900, may_reread=True)),
        # a shorter one
        (plain(50), range(20), {}, Append(19)),
        (evicted(500, 8), range(504), {}, Append(503, may_reread=True)),
        (evicted(500), range(400), {}, Append(0)),
        (evicted(900), range(800), {}, Reread()),
        (skimmed(900, 300), range(880), {}, Reread()),
        # one that differs
        (plain(50), [*range(30), 99, 98], {}, Append(30)),
        (evicted(500, 8), [*range(504), 9, 9], {}, Append(504, may_reread=True)),
        (evicted(500, 8), [*range(300), *range(9, 90)], {}, Append(0)),
        (evicted(900, 8), [*range(899), *range(9, 90)], {}, Reread()),
        (plain(50), [7, 7, 7], {}, Append(0)),
        # a state that cannot forget
        (plain(50), range(60), {"is_recurrent": True}, Append(50)),
        (plain(50), range(20), {"is_recurrent": True}, Append(0)),
        (plain(50), range(50), {"is_recurrent": True, "has_logits": False}, Append(0)),
        (evicted(500, 8), [*range(504), 9, 9], {"is_recurrent": True}, Append(0)),
        # a policy that has to see all of it
        (evicted(500, 8), range(520), {"needs_whole_prompt": True}, Reread()),
        (plain(50), range(60), {"needs_whole_prompt": True}, Append(50)),
        # positions that the model was trained for, if the text may be longer than them
        (evicted(500, 8), range(520), {"n_ctx": 8192, "n_ctx_train": 520 + N_ANSWER}, Append(508, may_reread=True)),
        (evicted(500, 8), range(520), {"n_ctx": 8192, "n_ctx_train": 519 + N_ANSWER}, Reread()),
        (evicted(500, 8), range(520), {"n_ctx": 600, "n_ctx_train": 600}, Append(508, may_reread=True)),
    ],
)
def test_decide(sequence, tokens, limits, expected):
    assert decide(sequence, list(tokens), replace(LIMITS, **limits)) == expected
