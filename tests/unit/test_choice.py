"""What is read of the documents after skimming."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.reading import make_prompt

from dapq_edge.prompt import Table
from dapq_edge.reading.choice import MIN_SHARE, Chunk, choose, window
from dapq_edge.reading.windows import N_OVERLAP, Excerpt

N_HEAD, SIZE = 5, 200


def chunks_of(*relevance):
    return [Chunk(i * SIZE, (i + 1) * SIZE, value) for i, value in enumerate(relevance)]


def chosen(chunks, n_body, n_window=800, windows=()):
    """Tokens of the document that are read; all around it are, too."""
    prompt = make_prompt(chunks[-1].stop, N_HEAD)
    is_read = choose(prompt, windows, chunks, n_body, n_window)
    assert is_read[prompt.around_index].all()
    return set(np.flatnonzero(is_read[prompt.body_index]).tolist())


def test_one_chunk_gets_a_window():
    read = chosen(chunks_of(0.1, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0), 900)
    assert read == set(range(500, 1300))


def test_relevant_chunks_come_before_the_window():
    """Three facts that one question asks for are read, however narrow the window gets."""
    read = chosen(chunks_of(0.9, 0, 0, 0.4, 0, 0, 0, 0.8, 0, 0), 3 * SIZE)
    assert read == {*range(200), *range(600, 800), *range(1400, 1600)}


def test_what_is_just_around_comes_before_the_window():
    """A sentence may stand on a border."""
    n_body = 2 * (SIZE + 2 * N_OVERLAP) + 100
    read = chosen(chunks_of(0, 0, 0.9, 0, 0, 0, 0.8, 0), n_body)
    second = set(range(1200 - N_OVERLAP, 1400 + N_OVERLAP))
    assert second < read
    assert read - second == set(range(*window(Chunk(400, 600), SIZE + 2 * N_OVERLAP + 100, 1600)))


def test_no_window_beside_much_that_is_relevant():
    """Tokens that nothing asks for take time, and cells."""
    read = chosen(chunks_of(0.9, 0, 0.8, 0, 0.7, 0, 0.8, 0, 0, 0), 2000, 900)
    assert read == {
        i for start in range(0, 8 * SIZE, 2 * SIZE) for i in range(max(0, start - N_OVERLAP), start + SIZE + N_OVERLAP)
    }


def test_best_ones_first_when_room_is_short():
    chunks = chunks_of(0.5, 0, 0.9, 0, 0.7, 0)
    assert chosen(chunks, 2 * SIZE) == {*range(400, 600), *range(800, 1000)}


@pytest.mark.parametrize(("share", "is_read"), [(MIN_SHARE, True), (MIN_SHARE - 0.01, False)])
def test_share_of_the_best(share, is_read):
    read = chosen(chunks_of(1.0, *[0.0] * 8, share), 900, 400)
    assert (1900 in read) == is_read


def test_chunk_that_does_not_fit_is_cut():
    assert chosen(chunks_of(0.0, 1.0, 0.0), 64) == set(range(268, 332))


def windows_of(chunks, n_each):
    """Windows of some chunks each, and what is just behind them."""
    ends = range(0, len(chunks), n_each)
    parts = [[range(chunk.start, chunk.stop) for chunk in chunks[i : i + n_each]] for i in ends]
    return [Excerpt(part, min(part[-1].stop + N_OVERLAP, chunks[-1].stop)) for part in parts]


@pytest.mark.parametrize(
    ("relevance", "first"),
    [
        ((0, 0, 0, 0, 0, 0.9, 0, 0, 0), 600),
        ((0, 0, 0, 0, 0.8, 0.9, 0, 0, 0), 600),
        # the text begins or ends there
        ((0.9, 0, 0, 0, 0, 0, 0, 0, 0), 0),
        ((0, 0, 0, 0, 0, 0, 0, 0, 0.9), 1200),
    ],
)
def test_window_that_has_all(relevance, first):
    """What is chosen is what was skimmed together, so that it need not be evaluated again."""
    chunks = chunks_of(*relevance)
    found = chosen(chunks, 900, windows=windows_of(chunks, 3))
    assert found == set(range(first, min(first + 3 * SIZE + N_OVERLAP, 9 * SIZE)))


@pytest.mark.parametrize(
    "relevance", [(0, 0, 0, 0.9, 0, 0, 0, 0, 0), (0, 0.5, 0, 0, 0.9, 0, 0, 0, 0), (0, 0, 0, 0, 0.04, 0, 0, 0, 0)]
)
def test_no_window_has_all(relevance):
    """What is just before a chunk stands in the window before, two chunks stand in two of them, or none is relevant."""
    chunks = chunks_of(*relevance)
    assert chosen(chunks, 900, windows=windows_of(chunks, 3)) == chosen(chunks, 900)


def test_window_that_does_not_fit():
    chunks = chunks_of(0, 0, 0, 0, 0.9, 0, 0, 0, 0)
    assert chosen(chunks, 400, windows=windows_of(chunks, 3)) == set(range(700, 1100))


def test_weak_evidence_is_not_followed_to_many_places():
    assert chosen(chunks_of(0.02, 0.0, 0.0, 0.0, 0.04, 0.0, 0.03, 0.0), 900) == set(range(500, 1300))


def test_nothing_relevant_at_all():
    """The first chunk is as good as any other."""
    assert chosen(chunks_of(*[0.0] * 8), 900) == set(range(800))


def test_short_text_is_read_whole():
    assert chosen(chunks_of(0.2, 0.9), 900) == set(range(2 * SIZE))


@pytest.mark.parametrize("seed", range(20))
def test_fits(seed):
    """Whatever the relevance: no more than fits, some of the best chunk, and nothing that could still be widened."""
    rng = np.random.default_rng(seed)
    chunks = chunks_of(*rng.random(12))
    n_body, n_window = int(rng.integers(64, 2400)), int(rng.integers(64, 1200))
    read, best = chosen(chunks, n_body, n_window), max(chunks, key=lambda chunk: chunk.relevance)
    assert len(read) <= n_body
    assert read & set(range(best.start, best.stop))
    around = set(range(*window(best, n_window, 12 * SIZE)))
    assert around <= read or len(read) >= min(n_body, n_window) - 1


def test_first_lines_of_a_table_count():
    """They are read with any of its rows, and are tokens of the document."""
    prompt = replace(make_prompt(1600, N_HEAD), tables=(Table(N_HEAD, N_HEAD + 20, N_HEAD + 1600),))
    is_read = choose(prompt, [], chunks_of(0, 0, 0, 0, 0.9, 0, 0, 0), 220, 800)
    read = np.flatnonzero(is_read[prompt.body_index]).tolist()
    assert read == [*range(20), *range(800, 1000)]
