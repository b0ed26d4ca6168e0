"""Calls of tools in an answer that comes piece by piece: what may begin one is held back, the rest goes on at once."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..llamacpp.model import Model
from .call_forms import Form, Read, Schemas

# what a model thinks is no call, whatever stands in it
THOUGHT = Form("<think>", "</think>", None)

# a text, or a call as OpenAI's API has its function: "name" and "arguments"
Part = str | dict[str, str]


class CallReader:
    """Splits an answer into texts, and calls of given tools.

    White space in front of a call is no text, nor is it at the end behind one. What is no call of a given tool is text,
    as it was written.

    Args:
        forms: Forms of the calls.
        tools: As in OpenAI's API.
        thinks: Whether the prompt has begun a thought.

    Attributes:
        is_behind_call: Whether the last part was a call.
    """

    def __init__(self, forms: Sequence[Form], tools: Iterable[dict[str, Any]], *, thinks: bool = False) -> None:
        functions = [tool["function"] for tool in tools]
        self._schemas: Schemas = {function["name"]: function.get("parameters") or {} for function in functions}
        self._forms = [*forms, THOUGHT]
        # what the prompt ends with belongs to a call, but is no text of the answer
        self._rest = next((form.opening for form in forms if form.opening), "")
        self._n_before = len(self._rest)
        self._thinks, self._has_text, self.is_behind_call = thinks, False, False

    def feed(self, text: str, *, is_end: bool = False) -> Iterator[Part]:
        """Yield the texts and calls that are known when `text` has come, and all of them at the end."""
        self._rest += text
        while self._rest and (parts := self._step(is_end)) is not None:
            yield from parts

    def _step(self, is_end: bool) -> Sequence[Part] | None:
        """Return what comes first, None if more has to come to tell."""
        if self._thinks:
            return self._thought(is_end)
        found = [(*self._place(form), form) for form in self._forms]
        start = min(place for place, _, _ in found)
        if n_text := len(self._rest[:start].rstrip()):
            return self._text(n_text)
        here = [(is_whole, form) for place, is_whole, form in found if place == start]
        if not is_end and not all(is_whole for is_whole, _ in here):
            # a longer mark may begin as a shorter one does
            return None
        whole = [form for is_whole, form in here if is_whole]
        if whole:
            return self._marked(start, max(whole, key=lambda form: len(form.start)), is_end)
        is_space = self.is_behind_call and not self._rest.strip()
        return self._take(len(self._rest), []) if is_space else self._text(len(self._rest))

    def _place(self, form: Form) -> tuple[int, bool]:
        """Return where a form begins, or where its mark is cut by the end, and whether all of the mark is there."""
        rest = self._rest
        if (form.is_bare or form is THOUGHT) and self._has_text:
            return len(rest), False
        if not form.is_bare:
            return _find(rest, form.start)
        head = "".join(rest.split())[: len(form.start)]
        is_part = head != "" and form.start.startswith(head)
        return len(rest) - len(rest.lstrip()) if is_part else len(rest), head == form.start

    def _thought(self, is_end: bool) -> Sequence[Part] | None:
        place, is_whole = _find(self._rest, THOUGHT.stop)
        self._thinks = not is_whole
        n_text = place + len(THOUGHT.stop) if is_whole else len(self._rest) if is_end else place
        return self._text(n_text) if n_text else None

    def _marked(self, start: int, form: Form, is_end: bool) -> Sequence[Part] | None:
        """Return what a mark begins, None if its end has to come."""
        inside = start if form.is_bare else start + len(form.start)
        if form is THOUGHT:
            self._thinks = True
            return self._text(inside)
        if form.read is None:
            return self._take(inside, [])
        stop = self._rest.find(form.stop, inside) if form.stop else -1
        if stop < 0 and not is_end:
            return None
        body = self._rest[inside : None if stop < 0 else stop]
        calls = self._calls(form.read, body)
        n_read = inside + len(body) + (len(form.stop) if stop >= 0 else 0)
        return self._take(n_read, calls) if calls else self._text(max(inside, start + 1))

    def _calls(self, read: Read, text: str) -> list[Part]:
        """Return the calls that a text is; none if it is no call, or one of another tool."""
        calls: list[Part] = []
        try:
            for name, arguments in read(text, self._schemas):
                written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
                # half of a surrogate pair cannot be sent
                written.encode()
                calls.append({"name": name, "arguments": written})
                if name not in self._schemas:
                    return []
        except (ValueError, TypeError, RecursionError, MemoryError):
            # a model may write anything
            return []
        return calls

    def _text(self, n: int) -> list[Part]:
        text = self._rest[self._n_before : n]
        self._has_text = self._has_text or bool(text.strip())
        return self._take(n, [text] if text else [])

    def _take(self, n: int, parts: list[Part]) -> list[Part]:
        """Return the parts that the first `n` characters are, which are done with."""
        self._rest, self._n_before = self._rest[n:], max(0, self._n_before - n)
        self.is_behind_call = any(isinstance(part, dict) for part in parts) or (not parts and self.is_behind_call)
        return parts


def begins_thought(model: Model, tokens: Sequence[int]) -> bool:
    """Return whether a prompt ends with the beginning of a thought."""
    # it may be several tokens, and white space stand behind it
    end = b"".join(model.pieces(tokens[-16:]))
    return end.rstrip().endswith(THOUGHT.start.encode())


def _find(text: str, mark: str) -> tuple[int, bool]:
    """Return where a mark is in a text, or where it is cut by the end of it, and whether all of it is there."""
    place = text.find(mark)
    if place >= 0:
        return place, True
    sizes = range(min(len(mark) - 1, len(text)), 0, -1)
    return len(text) - next((n for n in sizes if text.endswith(mark[:n])), 0), False
