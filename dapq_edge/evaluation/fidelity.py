"""Fidelity: how far the next tokens of an evicted cache are from those of the full cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..cache.sequence import Keep
from ..calibration.divergence import kl_divergence, log_probabilities
from ..counts import count
from ..errors import DapqError
from ..eviction.policies import Oracle, ScoringPolicy
from ..eviction.score import Scores
from ..eviction.select import top_cells
from ..files import read_jsonl
from ..llamacpp.model import Model
from ..prompt import Prompt
from ..prompt.chat_template import chat_prompt
from ..reading.engine import Engine
from .data import digest
from .runner import Job, Seen

# the prompt of multi_news in LongBench (arXiv 2308.14508)
INSTRUCTION = "You are given several news passages. Write a one-page summary of all news.\n\nNews:\n"
QUESTION = "Now, write a one-page summary of all the news.\n\nSummary:"


@dataclass
class FidelityCase:
    """A document of LongBench, and what the full cache answers to it."""

    key: dict[str, Any]
    context: str
    question: str
    references: Sequence[str]
    n_tokens: int
    n_predict: int
    needs_full: ClassVar[bool] = True

    def prompt(self, engine: Engine) -> Prompt:
        prompt = cut_prompt(engine.model, self.context, self.question, self.n_tokens)
        if prompt is None:
            raise DapqError(f"a document is shorter than {count(self.n_tokens, 'token')}")
        return prompt

    def observe(self, engine: Engine) -> None:
        """Remember the greedy answer of the full cache, its probabilities, and the cells that it looks at."""
        cache = engine.cache
        self._answer, _ = cache.peek(self.n_predict)
        self._oracle = Oracle().scores(cache, 0) if cache.can_evict else None
        self._full = log_probabilities(cache, self._answer)

    def measure(self, engine: Engine, job: Job, seen: Seen) -> dict[str, Any]:
        """Compare with the full cache: kl in nats; top1, the share of tokens that both find most probable; rouge_l.

        oracle_recall: the share of the cells that the oracle would choose for each head and that the policy chose, too.
        """
        cache = engine.cache
        answer, _ = cache.peek(self.n_predict)
        evicted = log_probabilities(cache, self._answer)
        row = {
            "kl": kl_divergence(self._full, evicted),
            "top1": float((self._full.argmax(axis=1) == evicted.argmax(axis=1)).mean()),
        }
        if self.references:
            row["rouge_l"] = rouge_l(
                engine.model.detokenize(answer, special=False).decode("utf-8", "replace"), self.references
            )
        if seen.keep is not None and self._oracle is not None and isinstance(job.policy, ScoringPolicy):
            row["oracle_recall"] = oracle_recall(seen.keep, self._oracle, job.policy.n_sink, job.policy.n_recent)
        return row


def fidelity_cases(path: Path, n_rows: int, n_tokens: int, n_predict: int, model: Model) -> Iterator[FidelityCase]:
    """Yield the first `n_rows` documents that are long enough. Raises `DapqError` with the number of a bad line."""
    found = 0
    for number, (context, question, references) in read_jsonl(path, _row, "a row of LongBench"):
        if found == n_rows:
            return
        # most documents that are too short need no model to tell
        if len(context) > n_tokens and cut_prompt(model, context, question, n_tokens):
            found += 1
            key = {"task": f"fidelity {path.stem}", "row": number, "length": n_tokens, "n": n_predict}
            key["data"] = digest(context, question, *references)
            yield FidelityCase(key, context, question, references, n_tokens, n_predict)


def _row(row: dict[str, Any]) -> tuple[str, str, list[str]]:
    """Parse a row; one without a question asks for a summary."""
    context, question, references = row["context"], row.get("input", ""), row.get("answers", [])
    if not isinstance(context, str) or not isinstance(question, str) or not isinstance(references, list):
        raise TypeError("context and input must be texts, and answers a list")
    context, question = (context, question) if question else (INSTRUCTION + context, QUESTION)
    return context, question, list(map(str, references))


def cut_prompt(model: Model, context: str, question: str, n_tokens: int) -> Prompt | None:
    """Return a prompt of exactly `n_tokens` tokens, its document cut at the end; None if it is too short.

    Raises `DapqError` if there is no room for the question.
    """
    prompt = chat_prompt(model, context, question)
    if len(prompt) < n_tokens:
        return None
    if n_tokens <= len(prompt.head) + len(prompt.tail):
        raise DapqError(f"there is no room for what is asked in {count(n_tokens, 'token')}: raise `lengths`")
    n_body = n_tokens - len(prompt.head) - len(prompt.tail)
    return Prompt.of(prompt.head, prompt.body[:n_body], prompt.tail, n_end=prompt.n_end)


def oracle_recall(keep: Keep, oracle: Scores, n_sink: int, n_recent: int) -> float:
    """Return the share of the oracle's best cells in `keep`, mean over heads; without those that are always kept."""
    shares = []
    for kept, scores in zip(keep, oracle, strict=True):
        best = top_cells(scores, kept.shape[1], n_sink, n_recent)
        for mine, wanted in zip(kept, best, strict=True):
            wanted = wanted[n_sink : wanted.size - n_recent]
            shares.append(np.isin(wanted, mine).mean() if wanted.size else 1.0)
    return float(np.mean(shares))


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """Return the F-measure of the longest common subsequence with the best reference.

    Raises `DapqError` without rouge-score.
    """
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise DapqError("ROUGE-L needs rouge-score: pip install rouge-score") from error
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    return float(max(scorer.score(reference, answer)["rougeL"].fmeasure for reference in references))
