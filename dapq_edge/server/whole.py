"""Answers from all windows of the documents in a request, as a response or as chunks of a stream."""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from ..chat.asking import Found, Messages, ask_all
from ..chat.whole import WholeQuestion
from ..llama import Llama


def results_of_all(
    llama: Llama,
    whole: WholeQuestion,
    question: str,
    messages: Messages,
    write: Callable[[Messages], Iterator[dict[str, Any]]],
    *,
    model: str,
    is_stream: bool,
) -> Iterator[dict[str, Any]]:
    """Yield one result, or chunks: items as they are found, and what is written over them.

    The last one has `whole`, all items with their pages and the windows that were asked, and `evidence`.

    Args:
        llama: It reads and answers.
        whole: Asks the windows.
        question: It.
        messages: Of the request.
        write: Answers messages, with chunks if it is a stream.
        model: Its name for clients.
        is_stream: Whether chunks are wanted.
    """
    results, text = _Results(model, is_stream), ""
    for made in ask_all(llama, whole, question, messages, write):
        if not isinstance(made, Found):
            yield results.written(made, whole)
            continue
        text += made.text
        if is_stream and (made.items or made.text):
            yield results.found(made)
    if whole.is_joined:
        faults = llama.engine.take_faults()
        yield results.joined(text, whole) | ({"warnings": faults} if faults else {})


class _Results:
    """Results of one answer, as OpenAI's API has them."""

    def __init__(self, model: str, is_stream: bool) -> None:
        kind = "chat.completion.chunk" if is_stream else "chat.completion"
        self._head = {"id": f"chatcmpl-{uuid.uuid4()}", "object": kind, "created": int(time.time()), "model": model}
        self._is_stream = is_stream
        # the first chunk says whose answer it is
        self._role = {"role": "assistant"}

    def found(self, found: Found) -> dict[str, Any]:
        """Return a chunk with new items."""
        content = {"content": found.text} if found.text else {}
        return self._result({"delta": self._with_role(content)}) | {
            "whole": {"parts": [item.fields() for item in found.items]}
        }

    def written(self, result: dict[str, Any], whole: WholeQuestion) -> dict[str, Any]:
        """Return what was written over the items as a part of the same answer."""
        choice = result["choices"][0]
        if "delta" in choice:
            choice["delta"] = self._with_role({key: part for key, part in choice["delta"].items() if key != "role"})
        return {**result, **self._head, **(_basis(whole) if choice["finish_reason"] else {})}

    def joined(self, text: str, whole: WholeQuestion) -> dict[str, Any]:
        """Return the end of an answer that code made of the items, or all of it."""
        message = {"message": {"role": "assistant", "content": text}}
        answer = {"delta": self._with_role({})} if self._is_stream else message
        return self._result(answer, "stop") | _basis(whole)

    def _with_role(self, delta: dict[str, Any]) -> dict[str, Any]:
        role, self._role = self._role, {}
        return {**role, **delta}

    def _result(self, answer: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, **answer, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice]}


def _basis(whole: WholeQuestion) -> dict[str, Any]:
    evidence = {
        "coverage": whole.coverage().line,
        "not_found": whole.has_nothing,
        "partial": whole.is_partial,
        "note": "; ".join(whole.notes()),
    }
    return {"whole": whole.fields(), "evidence": evidence}
