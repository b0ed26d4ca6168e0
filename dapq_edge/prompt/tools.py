"""Calls of tools that an answer makes, as OpenAI's API has them: when it must (`tool_choice: "required"`), or may."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..errors import UsageError
from ..llamacpp.model import Model
from ..llamacpp.openai import has_grammar
from .call_forms import PLAIN, Form, find_forms
from .call_reader import CallReader

# the schema of any object
ANY: dict[str, Any] = {"type": "object"}


def call_schema(tools: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON schema of a call of one of `tools`. Raises `UsageError` if there are none."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool["function"]["name"]}, "arguments": _arguments(tool["function"])},
            "required": ["name", "arguments"],
        }
        for tool in tools
    ]
    if not calls:
        raise UsageError("needs tools", param="tool_choice")
    return {"anyOf": calls}


def _arguments(function: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the arguments; of any object, if llama-cpp-python can make no grammar of it."""
    schema: dict[str, Any] = function.get("parameters") or ANY
    return schema if has_grammar(schema) else ANY


def call_forms(choice: Any, tools: Sequence[dict[str, Any]], template: str) -> list[Form]:
    """Return the forms in which an answer may call tools: none if there are none, or if `tool_choice` says so."""
    if choice == "required":
        return [PLAIN]
    return find_forms(template) if tools and choice == "auto" else []


def control_marks(model: Model, forms: Iterable[Form]) -> frozenset[int]:
    """Return the control tokens that calls are written with."""
    every = {token for form in forms for mark in form.marks for token in model.tokenize(mark, special=True)}
    return frozenset(filter(model.is_control, every))


def with_ends(stop: str | Sequence[str] | None, forms: Iterable[Form]) -> list[str]:
    """Return what an answer stops at, and what a model goes on with in place of its tools."""
    return [*([stop] if isinstance(stop, str) else stop or []), *(form.end for form in forms if form.end)]


def with_calls(answer: dict[str, Any], reader: CallReader) -> dict[str, Any]:
    """Return a chat completion with the calls that its text makes; what is no call stays text."""
    (choice,) = answer["choices"]
    message = choice["message"]
    parts = list(reader.feed(message["content"] or "", is_end=True))
    calls = [_call(part) for part in parts if isinstance(part, dict)]
    text = "".join(part for part in parts if isinstance(part, str))
    choice["message"] = (
        {**message, "content": text or None, "tool_calls": calls} if calls else {**message, "content": text}
    )
    choice["finish_reason"] = _reason(choice["finish_reason"], reader, bool(calls))
    return answer


def stream_with_calls(chunks: Iterable[dict[str, Any]], reader: CallReader) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a chat completion, each call that its text makes in a chunk of its own."""
    n_calls = 0
    for chunk in chunks:
        (choice,) = chunk["choices"]
        is_last = choice["finish_reason"] is not None
        for part in reader.feed(choice["delta"].get("content") or "", is_end=is_last):
            delta = {"content": part} if isinstance(part, str) else {"tool_calls": [{"index": n_calls, **_call(part)}]}
            n_calls += not isinstance(part, str)
            yield {**chunk, "choices": [{**choice, "delta": delta, "finish_reason": None}]}
        if is_last:
            choice["finish_reason"] = _reason(choice["finish_reason"], reader, n_calls > 0)
        if is_last or "role" in choice["delta"]:
            yield chunk


def _call(function: dict[str, str]) -> dict[str, Any]:
    # Mistral's templates want nine letters or digits
    return {"id": secrets.token_hex(5)[:9], "type": "function", "function": function}


def _reason(reason: str, reader: CallReader, has_calls: bool) -> str:
    """Return why an answer ended; one that was cut behind a call lacks nothing of it."""
    return "tool_calls" if has_calls and (reason == "stop" or reader.is_behind_call) else reason
