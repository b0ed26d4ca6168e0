"""Alignment of a prompt with a sequence: the tokens that the sequence has are taken where both are the same text."""

from collections.abc import Sequence as Tokens
from dataclasses import replace

from ..cache.sequence import Sequence
from ..llamacpp.model import Model
from ..prompt.turns import ASSISTANT, Message, find_messages, moved

# a prompt, and where its messages are, if that is known
Aligned = tuple[list[int], Tokens[Message] | None]


def align(model: Model, sequence: Sequence, tokens: list[int], messages: Tokens[Message] | None = None) -> Aligned:
    """Return a prompt with the sequence's own tokens where both spell the same text, and where its messages are then.

    An answer, when it comes back as a part of the next prompt, may be other tokens of the same text, or have other
    white space, as clients trim it: it stays as it was written.

    Args:
        model: Spells tokens.
        sequence: What a cache holds.
        tokens: All of the prompt.
        messages: Where its messages are; without that, they begin with control tokens.
    """
    while sequence.n_same(tokens) < min(sequence.n_tokens, len(tokens)):
        aligned = _with_text(model, sequence, tokens)
        if aligned is not None:
            return aligned, messages and moved(messages, tokens, aligned)
        messages = find_messages(model, tokens) if messages is None else messages
        answer = _other_answer(model, sequence, tokens, messages)
        if answer is None:
            break
        place, mine = answer
        shift = place.start + len(mine) - place.stop
        tokens = [*tokens[: place.start], *mine, *tokens[place.stop :]]
        messages = [_shifted(message, place, shift) for message in messages]
    return tokens, messages


def _with_text(model: Model, sequence: Sequence, tokens: list[int]) -> list[int] | None:
    """Return the prompt with all tokens of the sequence, if it begins with the same text."""
    n_same = sequence.n_same(tokens)
    # most texts differ at once, and are long
    mine, yours = (model.detokenize(text[n_same : n_same + 1]) for text in (sequence.text.tolist(), tokens))
    if not mine.startswith(yours) and not yours.startswith(mine):
        return None
    text = model.detokenize(sequence.text[n_same:].tolist())
    for n_new in range(n_same + 1, len(tokens) + 1):
        new = model.detokenize(tokens[n_same:n_new])
        if not text.startswith(new):
            break
        if new == text:
            return [*sequence.text.tolist(), *tokens[n_new:]]
    return None


def _other_answer(
    model: Model, sequence: Sequence, tokens: list[int], messages: Tokens[Message]
) -> tuple[Message, list[int]] | None:
    """Return the answer in which the prompt differs first, and its tokens in the sequence, if white space is all."""
    n_same = sequence.n_same(tokens)
    place = next((m for m in messages if m.stop >= n_same), None)
    if place is None or place.role not in ASSISTANT:
        return None
    # white space before it may be a token of the template, or one with it
    place = replace(place, start=min(place.start, n_same))
    text = sequence.text[place.start :].tolist()
    stop = next((i for i, token in enumerate(text) if model.is_control(token)), len(text))
    mine, yours = text[:stop], tokens[place.start : place.stop]
    is_same = mine != yours and model.detokenize(mine).split() == model.detokenize(yours).split()
    return (place, mine) if is_same else None


def _shifted(message: Message, place: Message, shift: int) -> Message:
    """Return where a message is if the one at `place` has `shift` more tokens."""
    if message.stop < place.stop:
        return message
    start = place.start if message.stop == place.stop else message.start + shift
    return replace(message, start=start, stop=message.stop + shift)
