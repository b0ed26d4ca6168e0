"""Calls of tools in messages of earlier turns: most chat templates take their arguments as objects, some as texts."""

import json
from collections.abc import Iterator
from typing import Any


def with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose calls have objects as arguments; in OpenAI's API they are JSON, as text."""
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_with_object(call) for call in calls]} if isinstance(calls, list) else message


def _with_object(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def spells_python(messages: list[dict[str, Any]], text: str) -> bool:
    """Return whether a template wrote arguments that are objects as Python does: it wants texts."""
    objects = [arguments for message in messages for arguments in _objects(message)]
    return any(str(arguments) in text and str(arguments) != json.dumps(arguments) for arguments in objects)


def _objects(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(arguments, dict):
            yield arguments
