"""Sources of answers: whether a sentence is cited from where its fact stands, and where BM25 would look for it."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..calibration.questions import Question
from ..chat.sources import Source, find_sources
from ..control import UNCONTROLLED, Control
from ..documents.document import Document
from ..eviction.budget import parse_budget
from ..eviction.policies import Policy
from ..llamacpp.model import Model
from ..prompt.chat_template import chat_prompt
from ..reading.engine import Engine
from ..reading.lexical import match
from ..reading.windows import N_SPAN, split
from .data import digest
from .results import Results, Row
from .runner import Job, model_key


def citations_rows(
    engine: Engine,
    document: Document,
    questions: Sequence[Question],
    asked: Sequence[int],
    policy: Policy,
    budget: str,
    results: Results,
    *,
    n_predict: int,
    seed: int = 0,
    control: Control = UNCONTROLLED,
) -> list[Row]:
    """Ask a document, and compare the sources of the answers with the facts, unless `results` has them.

    Of an answer that is right, the sources of the sentence that says so count, and how many it has. Pages that do not
    exist and quotes that do not stand on them are counted for all sources of all answers.

    Args:
        engine: Has a model.
        document: Has a page for each question.
        questions: Of its pages.
        asked: Numbers of those that are asked.
        policy: Chooses what is kept.
        budget: As it was written.
        results: Keeps the rows.
        n_predict: Tokens of an answer.
        seed: The document's.
        control: Is told how many questions are done.

    Raises `DapqError` as `Engine.read` does.
    """
    job, (texts, pages) = Job(policy, budget, bounded=True), _chunks(engine.model, document)
    setting = {"task": "citations", "pages": len(document.pages), "n": n_predict, "seed": seed}
    setting |= model_key(engine) | job.key(engine.heads)
    rows = []
    for done, i in enumerate(asked):
        control.report(done, len(asked))
        question = questions[i]
        key = setting | {"question": i, "data": digest(document.text, *vars(question).values())}
        if results.get(key) is None:
            row = _measure(engine, document, question, i, job, n_predict)
            if row["is_right"]:
                row["bm25_page"] = pages[int(np.argmax(match(question.question, texts).scores))] == i
            results.add(key, row)
        rows.append(results.get(key))
    return [row for row in rows if row is not None]


def _chunks(model: Model, document: Document) -> tuple[list[str], list[int]]:
    """Return texts of at most `N_SPAN` tokens, each of one page, and the number of its page."""
    texts, pages = [], []
    for i, page in enumerate(document.pages):
        tokens = model.tokenize(document.text_of(page))
        for part in split(range(len(tokens)), N_SPAN):
            texts.append(model.detokenize(tokens[part.start : part.stop]).decode("utf-8", "replace"))
            pages.append(i)
    return texts, pages


def _measure(
    engine: Engine, document: Document, question: Question, i: int, job: Job, n_predict: int
) -> dict[str, Any]:
    """Ask for the fact of page `i`."""
    start = time.perf_counter()
    prompt = chat_prompt(engine.model, document.text, question.question)
    engine.read(prompt, job.policy, parse_budget(job.budget), n_predict=n_predict)
    answer = "".join(engine.stream(n_predict)).strip()
    answered = time.perf_counter()
    sources = find_sources(engine, document)
    stop = time.perf_counter()
    row = {
        "is_right": question.answer in answer,
        "answer": answer,
        "n_sources": len(sources),
        "n_invented": sum(not is_real(source, document) for source in sources),
        "seconds": round(stop - start, 3),
        "citing": round((stop - answered) / (stop - start), 4),
    }
    if row["is_right"]:
        cited = [source for source in sources if question.answer in answer[slice(*source.citation.sentence)]]
        row["n_cited"] = len(cited)
        row["right_page"] = any(source.page == document.pages[i] for source in cited)
        row["right_quote"] = any(question.fact in source.quote for source in cited)
    return row


def is_real(source: Source, document: Document) -> bool:
    """Return whether the page of a source is one of the document, and its quote stands there."""
    return source.page in document.pages and source.quote in " ".join(document.text_of(source.page).split())
