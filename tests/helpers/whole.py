"""Answers of windows that are given, in place of those of a model."""

from collections.abc import Iterator
from typing import Any

import pytest

from dapq_edge.reading import engine
from dapq_edge.reading.whole import WindowAnswer


def windows_say(monkeypatch: pytest.MonkeyPatch, stopped: BaseException) -> list[str | None]:
    """What windows answer, one after the other; None raises `stopped`. A text that ends with "..." was cut."""
    texts: list[str | None] = ["1. The Ada\n2. The Bee", "none", "- the bee.\n- The Cod"]

    def answer_windows(cache: Any, model: Any, prompt: Any, windows: Any, store: Any, control: Any) -> Iterator[Any]:
        for i, text in enumerate(texts):
            control.report(i, len(texts))
            if text is None:
                raise stopped
            yield WindowAnswer(range(i * 200, i * 200 + 200), text, text.endswith("..."), i == 1, 10)

    monkeypatch.setattr(engine, "answer_windows", answer_windows)
    return texts
