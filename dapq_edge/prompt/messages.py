"""Messages to tokens by a chat template: what stands in a message is text, and it is known where it stands."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DapqError, UsageError
from ..llamacpp.model import Model
from .earlier_calls import spells_python, with_objects
from .places import n_visible, visible, visible_ends
from .turns import SYSTEM, Message

# characters of no text, as a rule: one goes into what spells a control token, two go around each message
PRIVATE = range(0xF0000, 0xFFFFE)

# arguments of a template for which it writes no tools
NO_TOOLS: dict[str, Any] = {"tools": []}

# arguments of a template that hold tools
TOOL_PARAMS = "tools", "functions"

# given messages and tools, it returns what the chat template makes of them, and whether a start token comes first
Render = Callable[[list[dict[str, Any]], dict[str, Any]], tuple[str, bool]]


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation as a prompt.

    Attributes:
        tokens: Of all of it.
        messages: Where its messages are in them; None if that is not known.
        accepted: Arguments of the chat, as its template takes them.
        shown: Control tokens whose names are text of the answer.
    """

    tokens: list[int]
    messages: list[Message] | None
    accepted: dict[str, Any]
    shown: frozenset[int] = frozenset()


def chat_tokens(
    model: Model, render: Render, messages: Sequence[dict[str, Any]], tools: dict[str, Any] | None = None
) -> ChatPrompt:
    """Write messages as the chat template of a model does, with the calls of tools in them as it takes them.

    What spells a control token in a message or a tool is text. A template that refuses a system message, or drops it,
    gets its text at the start of the next message of the user; one that refuses two messages of one role gets them as
    one, with a blank line between.

    Args:
        model: For its vocabulary.
        render: The chat template.
        messages: As in OpenAI's API; a content of several texts is one text with blank lines between.
        tools: Further arguments of the template.

    Raises `UsageError` if the template cannot write them, and says why.
    """
    plain, refusal = [_as_text(message) for message in messages], ""
    spelling = _Spelling(model, [plain, tools])
    # some templates look through the tools without looking whether there are any
    choices: list[dict[str, Any]] = [tools] if tools else [{}, NO_TOOLS]
    # others write the name of any role, which the model was not trained for
    knows_developer = "developer" in (model.chat_template or "")
    for form, options in itertools.product(_forms(plain, knows_developer=knows_developer), choices):
        try:
            return _written(model, render, spelling, spelling.hide(form), spelling.hide(options))
        except _RefusedError as error:
            refusal = refusal or str(error)
    raise UsageError(f"the chat template of the model {refusal}")


def _written(
    model: Model, render: Render, spelling: "_Spelling", messages: list[dict[str, Any]], tools: dict[str, Any]
) -> ChatPrompt:
    """Return messages without control tokens as the template writes them. Raises `_RefusedError` if it does not."""
    text, add_bos = _rendered(render, messages, tools)
    if spells_python(messages, text):
        raise _RefusedError("writes the arguments of calls as Python")
    spans = spelling.spans(render, messages, tools, text)
    roles = [str(message.get("role")) for message in messages]
    for message, role, span in zip(messages, roles, spans, strict=True):
        # it may leave out what an assistant thought
        if span is None and role != "assistant" and str(message.get("content") or "").strip():
            raise _RefusedError(f"drops the message of the role {role}")
    if any(tools.get(param) for param in TOOL_PARAMS):
        _check_tools(text, tools, _without_tools(render, messages))
    tokens = spelling.tokenize(text, add_bos)
    shown = [
        (role, spelling.show(text[: span[0]]), spelling.show(text[span[0] : span[1]]))
        for role, span in zip(roles, spans, strict=True)
        if span
    ]
    accepted = {"messages": messages, **tools}
    has_bos = add_bos and tokens[:1] == model.start_tokens
    return ChatPrompt(tokens, _locate(model, tokens, spelling.show(text), shown, has_bos), accepted)


class _RefusedError(Exception):
    """A template cannot write messages in this form."""


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose content is one text. Raises `UsageError` if a part of it is none."""
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        raise UsageError("only texts are read, no images")
    return {**message, "content": "\n\n".join(part["text"] for part in content)}


def _forms(messages: list[dict[str, Any]], *, knows_developer: bool) -> Iterator[list[dict[str, Any]]]:
    """Yield messages as they are, and in other forms that say the same, for templates that are strict."""
    seen: list[list[dict[str, Any]]] = []
    named = [{**message, "role": "system"} if message.get("role") in SYSTEM else message for message in messages]
    folded = list(_folded(named))
    for form in (messages if knows_developer else named, named, _joined(named), folded, _joined(folded)):
        for variant in ([with_objects(message) for message in form], form):
            if variant not in seen:
                seen.append(variant)
                yield variant


def _joined(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with neighbours of one role as one."""
    made: list[dict[str, Any]] = []
    for message in messages:
        last = made[-1] if made else {}
        is_text = all(other.keys() == {"role", "content"} and other["content"] for other in (last, message))
        if is_text and last["role"] == message["role"]:
            made[-1] = {**message, "content": f"{last['content']}\n\n{message['content']}"}
        else:
            made.append(message)
    return made


def _folded(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield messages whose system texts stand at the start of the next message of the user."""
    texts: list[str] = []
    for message in messages:
        if message.get("role") == "system":
            texts.append(message.get("content") or "")
        elif message.get("role") == "user" and texts:
            yield {**message, "content": "\n\n".join([*texts, message.get("content") or ""])}
            texts = []
        else:
            yield message
    if texts:
        yield {"role": "user", "content": "\n\n".join(texts)}


class _Spelling:
    """Control tokens in texts, made into text by a character in the middle, which is taken out of the prompt again."""

    def __init__(self, model: Model, texts: Any) -> None:
        self._model = model
        used = set(json.dumps(texts, ensure_ascii=False, default=str))
        self._unused = (chr(code) for code in PRIVATE if chr(code) not in used)
        self._mark = next(self._unused)
        # a template may write JSON in ASCII
        self._marks = re.compile("|".join(map(re.escape, (self._mark, json.dumps(self._mark)[1:-1]))))
        # some vocabularies have thousands, too many for a regular expression
        self._names = {name for name in model.control_texts if len(name) > 1}
        self._lengths = sorted({len(name) for name in self._names}, reverse=True)
        self._first = re.compile("|".join(map(re.escape, {name[0] for name in self._names})) or r"(?!)")

    def hide(self, value: Any) -> Any:
        """Return a text, or what holds texts, in which nothing spells a control token."""
        if isinstance(value, str):
            places = [0, *(start + 1 for start, _ in self._controls(value)), len(value)]
            return self._mark.join(value[start:stop] for start, stop in itertools.pairwise(places))
        if isinstance(value, dict):
            return {self.hide(key): self.hide(part) for key, part in value.items()}
        return [self.hide(part) for part in value] if isinstance(value, list) else value

    def show(self, text: str) -> str:
        """Return what was hidden as it was."""
        return self._marks.sub("", text)

    def tokenize(self, text: str, add_bos: bool) -> list[int]:
        """Return the tokens of a prompt: those of llama.cpp, but what is hidden spells no control token."""
        if not self._marks.search(text):
            return self._model.tokenize(text, special=True, add_bos=add_bos)
        tokens, place = self._model.start_tokens if add_bos else [], 0
        for start, stop in [*self._controls(text), (len(text), len(text))]:
            if place < start:
                tokens = tokens + self._model.tokenize(self.show(text[place:start]))
            if start < stop:
                tokens = tokens + self._model.tokenize(text[start:stop], special=True)
            place = stop
        return tokens

    def _controls(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where a text spells control tokens: the longest first, as llama.cpp does."""
        place = 0
        for found in self._first.finditer(text):
            start = found.start()
            lengths = self._lengths if start >= place else []
            length = next((n for n in lengths if text[start : start + n] in self._names), 0)
            if length:
                place = start + length
                yield start, place

    def spans(
        self, render: Render, messages: list[dict[str, Any]], tools: dict[str, Any], text: str
    ) -> list[tuple[int, int] | None]:
        """Return at which characters of a prompt the text of each message is; None if it is not there."""
        marks = [(next(self._unused), next(self._unused)) for _ in messages]
        framed = [_framed(message, *pair) for message, pair in zip(messages, marks, strict=True)]
        every = re.compile(f"[{''.join(map(''.join, marks))}]")
        try:
            with_marks = _rendered(render, framed, tools)[0]
        except _RefusedError:
            with_marks = ""
        places = {mark[0]: mark.start() - i for i, mark in enumerate(every.finditer(with_marks))}
        is_same, spans, place = every.sub("", with_marks) == text, [], 0
        for message, (start, stop) in zip(messages, marks, strict=True):
            known = is_same and start in places and stop in places
            span = (places[start], places[stop]) if known else _found(message.get("content"), text, place)
            spans.append(span)
            place = span[1] if span else place
        return spans


def _framed(message: dict[str, Any], start: str, stop: str) -> dict[str, Any]:
    """Return a message with a mark before and behind its text; templates may cut white space around it."""
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        return message
    core = content.strip()
    first = content.index(core)
    return {**message, "content": content[:first] + start + core + stop + content[first + len(core) :]}


def _found(content: Any, text: str, place: int) -> tuple[int, int] | None:
    """Return where a text stands in a prompt from `place` on, or the lines of it that a template has left."""
    lines = [line.strip() for line in content.splitlines() if line.strip()] if isinstance(content, str) else []
    if lines and (start := text.find(content.strip(), place)) >= 0:
        return start, start + len(content.strip())
    starts = [(start, start + len(line)) for line in lines if (start := text.find(line, place)) >= 0]
    return (min(starts)[0], max(stop for _, stop in starts)) if starts else None


def _rendered(render: Render, messages: list[dict[str, Any]], tools: dict[str, Any]) -> tuple[str, bool]:
    try:
        return render(messages, tools)
    except DapqError:
        raise
    except Exception as error:  # a template is a program of the model's author
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _RefusedError(f"refuses the messages: {reason}") from error


def _without_tools(render: Render, messages: list[dict[str, Any]]) -> str:
    """Return a prompt without tools; empty if the template wants some."""
    for options in ({}, NO_TOOLS):
        try:
            return _rendered(render, messages, options)[0]
        except _RefusedError:
            continue
    return ""


def _check_tools(text: str, tools: dict[str, Any], without: str) -> None:
    """Raise `UsageError` if the template dropped tools that only it could tell the model of.

    `text` is the prompt, `without` what it is without tools: a message may name a tool, too.
    """
    choice = tools.get("tool_choice") or tools.get("function_call")
    if isinstance(choice, dict) or choice in ("none", "required"):
        return
    for param in TOOL_PARAMS:
        for tool in tools.get(param) or []:
            name = tool.get("function", tool).get("name", "")
            if text.count(name) <= without.count(name):
                raise UsageError(
                    f"the chat template of the model has no {param}: {name} would be ignored, "
                    'unless tool_choice is "required", or names a tool'
                )


def _locate(
    model: Model, tokens: list[int], text: str, spans: list[tuple[str, str, str]], has_bos: bool
) -> list[Message] | None:
    """Return the tokens of messages; None if the tokens spell another text."""
    pieces = model.pieces(tokens)
    if has_bos:
        pieces[0] = b""
    # as many visible bytes are in the tokens up to each one
    ends = visible_ends(pieces, visible(b"".join(pieces)))
    if ends.size == 0 or ends[-1] != n_visible(text):
        return None
    messages = []
    for role, before, inside in spans:
        first, n_inside = n_visible(before), n_visible(inside)
        if n_inside:
            start, last = np.searchsorted(ends, [first, first + n_inside - 1], side="right").tolist()
            messages.append(Message(role, start, last + 1))
    return messages
