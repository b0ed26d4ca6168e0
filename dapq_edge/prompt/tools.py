"""Calls of tools that an answer must make: one of several, by a JSON schema, as OpenAI's `tool_choice: "required"`."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import UsageError
from ..llamacpp.openai import has_grammar

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


def as_call(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a chat completion whose text is a call as one that makes it; what was cut stays text."""
    (choice,) = answer["choices"]
    call = _call(choice["message"]["content"], answer)
    if call:
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice.update(message=message, finish_reason="tool_calls")
    return answer


def as_call_stream(chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a chat completion whose text is a call as those of one that makes it, in one chunk."""
    text = ""
    for chunk in chunks:
        (choice,) = chunk["choices"]
        text += choice["delta"].get("content") or ""
        if choice["finish_reason"]:
            call = _call(text, chunk)
            delta = {"tool_calls": [{"index": 0, **call}]} if call else {"content": text}
            yield {**chunk, "choices": [{**choice, "delta": delta, "finish_reason": None}]}
            choice["finish_reason"] = "tool_calls" if call else choice["finish_reason"]
        if choice["finish_reason"] or "role" in choice["delta"]:
            yield chunk


def _call(text: str, answer: dict[str, Any]) -> dict[str, Any] | None:
    """Return the call that a text is, None if it was cut by a limit or by a stop."""
    try:
        call = json.loads(text)
    except ValueError:
        return None
    function = {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
    return {"id": f"call_{answer['id']}", "type": "function", "function": function}
