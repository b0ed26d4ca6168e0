"""Where tokens spell a text."""

import itertools

import numpy as np
import pytest

from dapq_edge.prompt.places import find_place


def shown(place, text):
    return [text[a:b] for a, b in zip(place.starts.tolist(), place.stops.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("pieces", "text", "tokens", "expected"),
    [
        ([b"<s>", b"One", b" two", b"</s>"], "One two", range(1, 3), ["One", "two"]),
        # white space that a tokenizer adds or takes away
        (["▁One".encode(), "▁two".encode(), b"."], " One\n\ntwo.", range(0, 3), ["One", "two", "."]),
        # a token across a border, a character of two tokens, one of nothing but white space
        ([b"q", b"One", b" ", b"two?\n"], "ne two", range(1, 4), ["ne", "", "two"]),
        ([b"a\xc3", b"\xbc", b"b"], "aüb", range(0, 3), ["aü", "ü", "b"]),
        # the first one
        ([b"ab", b"ab"], "ab", range(0, 1), ["ab"]),
    ],
)
def test_find_place(pieces, text, tokens, expected):
    place = find_place(pieces, text)
    assert place.tokens == tokens
    assert shown(place, text) == expected


@pytest.mark.parametrize("text", ["", " \n", "three", "One  three"])
def test_what_is_not_there(text):
    assert find_place([b"One", b" two"], text) is None


@pytest.mark.parametrize("seed", range(30))
def test_any_division(seed):
    """Tokens of a character range spell it, and those beside them do not."""
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(list("ab é\n\u3042\U0001f600 "), 60))
    data = ("  <" + text + "> ").encode()
    borders = [0, *sorted(set(rng.integers(1, len(data), 30).tolist())), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(borders)]
    place = find_place(pieces, text)
    start = int(rng.integers(0, 50))
    stop = start + int(rng.integers(1, 10))
    tokens = place.tokens_of(start, stop)
    if text[start:stop].strip():
        wanted = text[start:stop].strip().encode().replace(b" ", b"").replace(b"\n", b"")
        spelled = b"".join(pieces[tokens.start : tokens.stop]).replace(b" ", b"").replace(b"\n", b"")
        assert wanted in spelled or len(tokens) == 1
        for token in (tokens.start, tokens.stop - 1):
            i = token - place.tokens.start
            assert place.stops[i] > start
            assert place.starts[i] < stop
