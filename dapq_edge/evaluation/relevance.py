"""Ranks of the chunk that answers a question, by several ways to see it; no answer is written, so that it is quick."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..calibration.query_heads import N_WINDOW, standardised
from ..calibration.questions import Asked, Question, ask_all
from ..cells import CHUNK
from ..control import UNCONTROLLED, Control
from ..errors import DapqError
from ..llamacpp import context
from ..prompt.window import window_of
from ..reading.asking import ask_window
from ..reading.engine import Engine
from ..reading.evidence import NEUTRAL, Evidence, Guess, QueryHeads
from ..reading.lexical import match
from ..reading.windows import excerpts
from .data import digest
from .results import JOB_FIELDS, Results, Row

# a chunk among so many is read with the best one
N_AMONG = 4

# weight of BM25 in the mixture with query heads, both in standard deviations over the chunks of a document
LEXICAL_WEIGHT = 0.25

# tokens that are probed at once
N_QUERIES = 32


def relevance_rows(
    engine: Engine,
    questions: Sequence[Question],
    texts: Mapping[str, str],
    lengths: Sequence[int],
    results: Results,
    *,
    seed: int = 0,
    control: Control = UNCONTROLLED,
) -> list[Row]:
    """Ask documents of all lengths for all questions, and rank their chunks by each way, unless `results` has them.

    The ways are `bm25`; `embeddings`, cosines of the mean of the model's last hidden states; `guess`, see `Guess`;
    `query`, see `QueryHeads`, and `mixture`, that and BM25, if the model has a profile with query heads.

    Raises `DapqError` if a text is too short, and as `KVCache.probe` does.
    """
    engine.open(N_WINDOW + CHUNK)
    keys: list[dict[str, Any]] = []
    n_all, ways = len(lengths) * len(questions), _ways(engine)
    for n_tokens in lengths:
        for question, case in zip(questions, ask_all(engine.model, questions, texts, n_tokens, seed), strict=True):
            control.report(len(keys) // len(ways), n_all)
            key = {"task": "relevance", "length": n_tokens, "model": engine.model.path.name, "seed": seed}
            key["data"] = digest(question.fact, question.question, *texts.values())
            made = {name: key | dict(zip(JOB_FIELDS, (name, "", False, used, ""), strict=True)) for name, used in ways}
            if any(results.get(row) is None for row in made.values()):
                scores, right = _scores(engine, question, case)
                for name, row in made.items():
                    results.add(row, _ranked(scores[name], right))
            keys += made.values()
    rows = (results.get(key) for key in keys)
    return [row for row in rows if row is not None]


def _ways(engine: Engine) -> list[tuple[str, str]]:
    """Return the ways that the model has, and the digest of the profile that each uses."""
    used = engine.heads.digest if engine.heads else ""
    with_query = ["query", "mixture"] if engine.heads and engine.heads.query else []
    return [("bm25", ""), ("embeddings", ""), *((name, used) for name in ("guess", *with_query))]


def _ranked(scores: npt.NDArray[np.floating[Any]], right: int) -> dict[str, Any]:
    """Return the rank of a chunk, 0 for the best one; equal ones share theirs."""
    rank = float((scores > scores[right]).sum() + ((scores == scores[right]).sum() - 1) / 2)
    return {"first": rank == 0, "among_four": rank < N_AMONG, "rank": rank, "chunks": len(scores)}


def _scores(engine: Engine, question: Question, case: Asked) -> tuple[dict[str, npt.NDArray[np.floating[Any]]], int]:
    """Return the scores of the chunks of a document by each way, and the number of the right chunk."""
    model, body = engine.model, case.prompt.body
    chunks = [chunk for window in excerpts([len(body)], N_WINDOW) for chunk in window.chunks]
    middle = (case.fact.start + case.fact.stop) // 2
    right = next(i for i, chunk in enumerate(chunks) if middle in chunk)
    texts = [model.detokenize(body[chunk.start : chunk.stop]).decode("utf-8", "replace") for chunk in chunks]
    scores: dict[str, npt.NDArray[np.floating[Any]]] = {
        "bm25": match(question.question, texts).scores,
        "embeddings": _cosines(engine, case),
        "guess": np.array(list(_relevance(engine, case, Guess(engine.heads)))),
    }
    if engine.heads and engine.heads.query:
        evidence = QueryHeads(engine.heads.query, model.tokenize(NEUTRAL))
        scores["query"] = np.array(list(_relevance(engine, case, evidence)))
        # the likelihood's exponent is what adds up
        deviation = np.log(np.clip(scores["query"], 1e-9, 1 - 1e-9) / (1 - np.clip(scores["query"], 1e-9, 1 - 1e-9)))
        scores["mixture"] = standardised(deviation) + LEXICAL_WEIGHT * standardised(scores["bm25"])
    return scores, right


def _relevance(engine: Engine, case: Asked, evidence: Evidence) -> Iterator[float]:
    """Yield the relevance of the chunks of all windows."""
    cache, prompt, around = engine.cache, case.prompt, window_of(case.prompt)
    with evidence.depth(cache):
        for window in excerpts([len(prompt.body)], N_WINDOW):
            yield from ask_window(cache, prompt, around, window, evidence, N_QUERIES, cache.read).relevance
    cache.clear()


def _cosines(engine: Engine, case: Asked) -> npt.NDArray[np.float32]:
    """Return how near the mean hidden state of each chunk is to that of the question: float32 [chunks]."""
    ctx, body = engine.cache.ctx, case.prompt.body
    means = [context.hidden_states(ctx, window_of(case.prompt).asking).mean(axis=0)]
    for window in excerpts([len(body)], N_WINDOW):
        first = window.start
        states = context.hidden_states(ctx, body[first : window.stop])
        means += [states[chunk.start - first : chunk.stop - first].mean(axis=0) for chunk in window.chunks]
    if not np.isfinite(means).all():
        raise DapqError("the model has hidden states that are not finite")
    asked, *others = [mean / np.linalg.norm(mean) for mean in means]
    cosines: npt.NDArray[np.float32] = np.stack(others) @ asked
    return cosines
