"""The messages of a prompt: where each is, by the control tokens of chat templates."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..llamacpp.model import Model

# tokens between the start of a message and its text: the role
N_ROLE = 6

SYSTEM, ASSISTANT = ("system", "developer"), ("assistant", "model", "bot", "gpt")
ROLES = {*SYSTEM, *ASSISTANT, "user", "human", "tool", "function", "ipython", "environment"}


@dataclass(frozen=True)
class Message:
    """The text of a message of `role`: tokens `start` to `stop` (exclusive) of a prompt."""

    role: str
    start: int
    stop: int


def find_messages(model: Model, tokens: Sequence[int]) -> list[Message]:
    """Return the messages of a prompt by its control tokens; all of it is one of the user if there are none."""
    pieces = model.pieces(tokens)
    borders = [-1, *(i for i, token in enumerate(tokens) if model.is_control(token)), len(tokens)]
    messages, role = [], "user"
    for before, after in itertools.pairwise(borders):
        text = b"".join(pieces[before + 1 : after]).strip().decode("utf-8", "replace")
        if text in ROLES:
            # the name of a role, alone
            role = text
            continue
        n_role, named = _role(pieces[before + 1 : before + 1 + N_ROLE]) if before >= 0 else (0, "")
        role = named or role
        if b"".join(pieces[before + 1 + n_role : after]).strip():
            messages.append(Message(role, before + 1 + n_role, after))
            role = "user"
    # an answer that has begun is a part of the generation prompt
    while len(messages) > 1 and messages[-1].role in ASSISTANT:
        messages.pop()
    return messages


def _role(pieces: Sequence[bytes]) -> tuple[int, str]:
    """Return the tokens of a role's name and its line break at the start of a message, and the name."""
    for n, piece in enumerate(pieces, start=1):
        if b"\n" in piece:
            name = b"".join(pieces[:n]).strip().decode("utf-8", "replace")
            return (n, name) if name in ROLES else (0, "")
    return 0, ""


def moved(messages: Sequence[Message], tokens: Sequence[int], aligned: Sequence[int]) -> list[Message]:
    """Return where messages are when some of the tokens are replaced by others that spell the same, see `align`."""
    n_same = next((i for i, (old, new) in enumerate(zip(tokens, aligned, strict=False)) if old != new), len(tokens))
    shift = len(aligned) - len(tokens)

    def place(i: int) -> int:
        return i if i <= n_same else max(n_same, i + shift)

    return [replace(message, start=place(message.start), stop=place(message.stop)) for message in messages]
