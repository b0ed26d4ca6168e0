"""A prompt gets the tokens of what is in the cache where both are the same text."""

from typing import ClassVar

import pytest

from dapq_edge.cache.sequence import Sequence
from dapq_edge.prompt.turns import Message
from dapq_edge.reading.align import align

START, END = 200, 201


class Vocabulary:
    """Tokens of letters, 100 is "ab", and two control tokens."""

    names: ClassVar = {100: b"ab", 27: b" ", 28: b"\n", START: b"<s>", END: b"</s>"}

    def detokenize(self, tokens):
        return b"".join(self.pieces(tokens))

    def pieces(self, tokens):
        return [self.names.get(token) or bytes([97 + token]) for token in tokens]

    def is_control(self, token):
        return token in (START, END)


def ids(text):
    """Tokens of a text, letter by letter; "<" and ">" begin and end a message."""
    return [{"<": START, ">": END, " ": 27, "\n": 28}.get(c, ord(c) - 97) for c in text]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # "ab" came back as one token, or as two
        ([5, 0, 1], [5, 100, 9], [5, 0, 1, 9]),
        ([5, 100], [5, 0, 1, 9], [5, 100, 9]),
        # other text, or more of it than a token border allows
        ([5, 0, 2], [5, 100, 9], [5, 100, 9]),
        ([5, 0, 1, 0], [5, 100, 9], [5, 100, 9]),
        ([5, 0], [5, 100, 9], [5, 100, 9]),
        # the same tokens
        ([5, 0], [5, 0, 1], [5, 0, 1]),
        ([5, 0, 1], [5], [5]),
        ([], [5], [5]),
    ],
)
def test_the_text_counts_not_the_tokens(old, new, expected):
    assert align(Vocabulary(), Sequence().append(old), new)[0] == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # trimmed, joined, torn
        ("<user\nq><bot\na b\n", "<user\nq><bot\na b><user\nr>", "<user\nq><bot\na b\n><user\nr>"),
        ("<user\nq><bot\na\n\nb", "<user\nq><bot\na b><user\nr>", "<user\nq><bot\na\n\nb><user\nr>"),
        ("<user\nq><bot\na b c", "<user\nq><bot\na\nb\nc><user\nr>", "<user\nq><bot\na b c><user\nr>"),
        # two answers
        (
            "<user\nq><bot\na b><user\nr><bot\nc d",
            "<user\nq><bot\na\nb><user\nr><bot\nc\nd><user\ns>",
            "<user\nq><bot\na b><user\nr><bot\nc d><user\ns>",
        ),
        # what the user says counts to the letter, in an old answer that is not the same, too
        ("<user\nq r><bot\na", "<user\nq\nr><bot\na>", "<user\nq\nr><bot\na>"),
        ("<user\nq><bot\na b><user\nr s", "<user\nq><bot\na\nb><user\nr\ns>", "<user\nq><bot\na b><user\nr\ns>"),
        ("<user\nq><bot\na b", "<user\nq><bot\na\nc><user\nr>", "<user\nq><bot\na\nc><user\nr>"),
        # a word that is torn is another one
        ("<user\nq><bot\na b", "<user\nq><bot\nab><user\nr>", "<user\nq><bot\nab><user\nr>"),
    ],
)
def test_an_answer_with_other_white_space_stays(old, new, expected):
    tokens, messages = align(Vocabulary(), Sequence().append(ids(old)), ids(new))
    assert tokens == ids(expected)
    for message in messages or []:
        assert START not in tokens[message.start : message.stop]
        assert tokens[message.stop : message.stop + 1] in ([END], [])


def test_messages_move():
    """Those that are known, where no control tokens tell."""
    old, new = ids("ask q\nsay a  b\n"), ids("ask q\nsay a\nb\nask r\n")
    messages = [Message("user", 4, 6), Message("bot", 10, 13), Message("user", 18, 20)]
    tokens, moved = align(Vocabulary(), Sequence().append(old), new, messages)
    assert tokens == ids("ask q\nsay a  b\n\nask r\n")
    assert [(m.start, m.stop) for m in moved] == [(4, 6), (10, 15), (20, 22)]
