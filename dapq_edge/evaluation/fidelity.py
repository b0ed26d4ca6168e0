"""Fidelity: how far the next tokens of an evicted cache are from those of the full cache."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import DapqError
from ..llama import Llama
from ..reader import Prompt

# the prompt of multi_news in LongBench (arXiv 2308.14508)
INSTRUCTION = "You are given several news passages. Write a one-page summary of all news.\n\nNews:\n"
QUESTION = "Now, write a one-page summary of all the news.\n\nSummary:"


def read_contexts(path: Path) -> Iterator[str]:
    """The documents of a LongBench JSONL file. Raises `DapqError` with the number of a bad line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DapqError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)["context"]
        except (ValueError, KeyError, TypeError) as error:
            raise DapqError(f"{path}, line {number}: not a row of LongBench: {error}") from error


def news_prompt(llama: Llama, context: str, n_tokens: int) -> Prompt | None:
    """A prompt for a summary of exactly `n_tokens` tokens, its document cut at the end; None if it is too short."""
    prompt = llama.chat_prompt(INSTRUCTION + context, QUESTION)
    if len(prompt) < n_tokens:
        return None
    return Prompt(prompt.head, prompt.body[: n_tokens - len(prompt.head) - len(prompt.tail)], prompt.tail)


def log_probabilities(llama: Llama, tokens: list[int]) -> npt.NDArray[np.float64]:
    """Of all tokens after each of `tokens`, which are read one after the other: float64 [tokens, n_vocab]."""
    rows = []
    for token in tokens:
        llama.kv_cache.read([token])
        logits = llama.kv_cache.logits.astype(np.float64)
        logits -= logits.max()
        rows.append(logits - np.log(np.exp(logits).sum()))
    return np.stack(rows)


def kl_divergence(full: npt.NDArray[np.float64], evicted: npt.NDArray[np.float64]) -> float:
    """Mean KL divergence of the full cache's next-token distributions to those of the evicted one, in nats."""
    return float((np.exp(full) * (full - evicted)).sum(axis=1).mean())
