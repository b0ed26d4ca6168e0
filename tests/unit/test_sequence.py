"""The ledger of a sequence, against a list of its cells that is kept by brute force."""

from dataclasses import replace

import numpy as np
import pytest

from dapq_edge import Sequence

N_LAYERS, N_HEADS = 3, 2


class BruteForce:
    """Every token of the text in a list, and for each layer and head a list of the positions that it has."""

    def __init__(self):
        self.text, self.read, self.frozen = [], [], 0
        self.heads = [[[] for _ in range(N_HEADS)] for _ in range(N_LAYERS)]
        self.n_compacted = 0

    def append(self, tokens):
        for token in tokens:
            for layer in self.heads:
                for head in layer:
                    head.append(len(self.read))
            self.read.append(len(self.text))
            self.text.append(token)

    def truncate(self, n_tokens):
        n_positions = sum(place < n_tokens for place in self.read)
        self.text, self.read = self.text[:n_tokens], self.read[:n_positions]
        self.heads = [[[pos for pos in head if pos < n_positions] for head in layer] for layer in self.heads]

    def place(self, text, index):
        self.text, self.read = list(text), list(index)
        if len(text) > len(index):
            self.frozen = len(text)

    def compact(self, keep):
        n_most = max(len(layer[0]) for layer in self.heads)
        for il, cells in enumerate(keep):
            first = n_most - len(self.heads[il][0])
            self.heads[il] = [[head[i - first] for i in row] for head, row in zip(self.heads[il], cells, strict=True)]
        self.n_compacted, self.frozen = len(self.read), len(self.text)

    def coverage(self):
        share = np.zeros(len(self.text))
        heads = [head for layer in self.heads for head in layer]
        for pos, place in enumerate(self.read):
            share[place] = np.mean([pos in head for head in heads])
        return share


def random_keep(brute, rng):
    """Other numbers of cells in each layer, other cells in each head."""
    n_most = max(len(layer[0]) for layer in brute.heads)
    keep = []
    for layer in brute.heads:
        n, first = len(layer[0]), n_most - len(layer[0])
        count = int(rng.integers(1, n + 1))
        keep.append(np.array([first + np.sort(rng.choice(n, count, replace=False)) for _ in range(N_HEADS)]))
    return keep


def step(sequence, brute, rng):
    """Do the same to both."""
    kind = rng.choice(["append", "truncate", "compact", "place", "mark"], p=[0.4, 0.2, 0.2, 0.1, 0.1])
    if kind == "append":
        tokens = rng.integers(1000, size=rng.integers(1, 9)).tolist()
        brute.append(tokens)
        return sequence.append(tokens)
    if kind == "truncate":
        n_tokens = int(rng.integers(brute.frozen, len(brute.text) + 1))
        brute.truncate(n_tokens)
        return sequence.truncate(n_tokens)
    if kind == "compact" and brute.read:
        keep = random_keep(brute, rng)
        brute.compact(keep)
        return sequence.compact(keep, np.ones(3, np.float32), 0.5)
    if kind == "place" and brute.read and len(brute.read) == len(brute.text):
        n_more = int(rng.integers(4))
        index = np.sort(rng.choice(len(brute.read) + n_more, len(brute.read), replace=False))
        text = rng.integers(1000, size=len(brute.read) + n_more)
        text[index] = brute.text
        brute.place(text.tolist(), index.tolist())
        return sequence.place(text, index)
    if kind == "mark":
        return replace(sequence, marks=[np.array(layer, np.float32) for layer in brute.heads])
    return sequence


@pytest.mark.parametrize("seed", range(40))
def test_random_steps(seed):
    rng, sequence, brute = np.random.default_rng(seed), Sequence(), BruteForce()
    for _ in range(30):
        sequence = step(sequence, brute, rng)
        assert sequence.text.tolist() == brute.text
        assert sequence.text_index.tolist() == brute.read
        assert (sequence.n_tokens, sequence.n_positions) == (len(brute.text), len(brute.read))
        assert sequence.n_skipped == len(brute.text) - len(brute.read)
        assert sequence.n_cells == max(len(layer[0]) for layer in brute.heads)
        assert sequence.n_frozen == brute.frozen
        recent = [brute.text[i] for i in brute.read[brute.n_compacted :]]
        assert sequence.recent.tolist() == recent
        np.testing.assert_allclose(sequence.coverage(), brute.coverage())
        for marks, layer in zip(sequence.marks, brute.heads, strict=bool(sequence.marks)):
            assert marks.tolist() == [head[: marks.shape[1]] for head in layer]
        if sequence.kept:
            n_most = max(len(layer[0]) for layer in brute.heads)
            assert sequence.n_missing == [n_most - len(layer[0]) for layer in brute.heads]
            for rows, layer in zip(sequence.tokens_of_cells(), brute.heads, strict=True):
                for row, head in zip(rows.tolist(), layer, strict=True):
                    assert row == [-1] * (n_most - len(head)) + [brute.read[position] for position in head]


def test_it_never_changes():
    before = Sequence().append([1, 2, 3])
    before.append([4])
    before.compact([np.array([[0, 2]])])
    before.truncate(1)
    assert before.text.tolist() == [1, 2, 3]
    assert before.kept == []
    assert before.n_frozen == 0


def test_what_is_lost_cannot_be_truncated():
    sequence = Sequence().append([1, 2, 3]).compact([np.array([[0, 2]])]).append([4, 5])
    assert sequence.truncate(3).n_cells == 2
    with pytest.raises(ValueError, match="3 tokens only go together"):
        sequence.truncate(2)


def test_positions_hold_the_tokens_of_the_text():
    with pytest.raises(ValueError, match="other tokens"):
        Sequence().append([1, 2]).place([1, 3, 4], np.array([0, 1]))


def test_pack_and_unpack():
    """Every field survives, whatever it is made of."""
    sequence = Sequence().append(range(9)).place(range(12), np.arange(9))
    sequence = sequence.compact([np.array([[0, 2], [1, 3]]), np.array([[1], [8]])], np.ones(5, np.float32), 0.25)
    values, arrays = sequence.append([7, 7]).pack()
    again = Sequence.unpack(values, arrays)
    for name, value in vars(sequence.append([7, 7])).items():
        np.testing.assert_equal(getattr(again, name), value)
    del arrays["kept1"]
    with pytest.raises(KeyError):
        Sequence.unpack(values, arrays)
