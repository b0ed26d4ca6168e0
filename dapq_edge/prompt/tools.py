"""Calls of tools that an answer must make: one of several, by a JSON schema, as OpenAI's `tool_choice: "required"`."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import UsageError


def call_schema(tools: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON schema of a call of one of `tools`. Raises `UsageError` if there are none."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": tool["function"].get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
        }
        for tool in tools
    ]
    if not calls:
        raise UsageError("needs tools", param="tool_choice")
    return {"anyOf": calls}


def as_call(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a chat completion whose text is a call as one that makes it; what was cut stays text."""
    (choice,) = answer["choices"]
    if choice["finish_reason"] != "length":
        message = {"role": "assistant", "content": None, "tool_calls": [_call(choice["message"]["content"], answer)]}
        choice.update(message=message, finish_reason="tool_calls")
    return answer


def as_call_stream(chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a chat completion whose text is a call as those of one that makes it, in one chunk."""
    text = ""
    for chunk in chunks:
        (choice,) = chunk["choices"]
        text += choice["delta"].get("content") or ""
        reason = choice["finish_reason"]
        if reason:
            delta = {"content": text} if reason == "length" else {"tool_calls": [{"index": 0, **_call(text, chunk)}]}
            yield {**chunk, "choices": [{**choice, "delta": delta, "finish_reason": None}]}
            choice["finish_reason"] = reason if reason == "length" else "tool_calls"
        if reason or "role" in choice["delta"]:
            yield chunk


def _call(text: str, answer: dict[str, Any]) -> dict[str, Any]:
    call = json.loads(text)
    function = {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
    return {"id": f"call_{answer['id']}", "type": "function", "function": function}
