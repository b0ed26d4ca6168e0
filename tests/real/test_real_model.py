"""A real model on real text: what is read is found again after eviction."""

import numpy as np
import pytest
from helpers.real import LLAMA_CPP, SHARED, needs_build, needs_shared

from dapq_edge import Engine
from dapq_edge.calibration.needles import Needle, read_haystack, read_needles
from dapq_edge.cells import LAYER_STEP
from dapq_edge.chat.sources import find_coverage, find_sources
from dapq_edge.documents.document import Document
from dapq_edge.evaluation.needle import needle_cases
from dapq_edge.evaluation.results import Results
from dapq_edge.evaluation.runner import Job, evaluate, jobs_of
from dapq_edge.evaluation.summary import group_by, of_full
from dapq_edge.eviction.budget import parse_budget
from dapq_edge.eviction.policies import get_policy
from dapq_edge.prompt.chat_template import chat_prompt
from dapq_edge.reading.plan import ReadMode

pytestmark = pytest.mark.slow

HOWTO = "docs/development/HOWTO-add-model.md"


NEEDLES = [
    Needle(
        " The registered name of the ferry in the bay is Marlow Quinn. ",
        "What is the registered name of the ferry in the bay?",
        "The registered name of the ferry in the bay is",
        "Marlow Quinn",
    ),
    Needle(
        " The meeting with the beekeepers was moved to Friday at the Bergen library. ",
        "Where was the meeting with the beekeepers moved to?",
        "The meeting with the beekeepers was moved to",
        "Bergen",
    ),
    Needle(
        " The favorite dish of the night watchman is lentil soup with smoked paprika. ",
        "What is the favorite dish of the night watchman?",
        "The favorite dish of the night watchman is",
        "smoked paprika",
    ),
]


def found(
    engine: Engine, needles: list[Needle], haystack: str, jobs: list[Job], depths: list[float]
) -> dict[str, float]:
    """How many of the needles in 2,048 tokens the full cache finds, and the share of those that each job does."""
    options = {"lengths": [2048], "depths": depths, "n_offsets": 1, "seed": 0, "n_predict": 12}
    results = Results()
    evaluate(engine, needle_cases(needles, haystack, **options), jobs, results)
    full = sum(row["score"] for row in results.rows if row["policy"] == "full")
    shares = {
        key: of_full(results.rows, rows).mean for key, rows in group_by(results.rows, ("policy", "budget")).items()
    }
    first = [row["first"] for row in results.rows if "first" in row]
    shares = {f"{policy} {budget}": share for (policy, budget), share in shares.items()}
    return {"full": full, "first": float(np.mean(first)) if first else 0.0} | shares


def jobs(budgets: list[str], bounded: bool = False) -> list[Job]:
    return jobs_of([get_policy("fused")], budgets, bounded)


@pytest.fixture(scope="module")
def docs() -> str:
    return read_haystack([LLAMA_CPP / "CONTRIBUTING.md", LLAMA_CPP / "SECURITY.md", LLAMA_CPP / HOWTO])


@needs_build
def test_needles_in_the_docs_of_llama_cpp(engine, docs):
    """The gate: what the full cache finds, fused finds with 3% of it; the simplest policy does not."""
    wanted = [*jobs(["64", "128", "256"]), *jobs_of([get_policy("streaming")], ["256"])[1:]]
    share = found(engine, NEEDLES, docs, wanted, [0.1, 0.35, 0.6, 0.85])
    assert share["full"] >= 11, share
    assert share["fused 64"] >= 0.95, share
    assert share["fused 128"] >= 0.995, share
    assert share["fused 256"] == 1, share
    assert share["streaming 256"] < 0.5, share


@needs_build
def test_needles_in_bounded_memory(engine, docs):
    """With an eighth of the prompt resident; what is read is right, and the 135M model misses one or another."""
    share = found(engine, NEEDLES, docs, jobs(["256"], True), [0.1, 0.3, 0.5, 0.7, 0.9])
    assert share["full"] >= 12, share
    assert share["first"] == 1, share
    assert share["fused 256"] >= 0.8, share


@needs_shared
def test_needles_in_essays(engine):
    needles = read_needles(SHARED / "needles.jsonl")
    share = found(engine, needles, read_haystack(sorted(SHARED.glob("*.txt"))), jobs(["64"]), [0.5])
    assert share["full"] >= 4, share
    assert share["fused 64"] >= 0.95, share


@needs_build
def test_answer_of_the_demo(engine):
    document = (LLAMA_CPP / "CONTRIBUTING.md").read_text()
    prompt = chat_prompt(
        engine.model, document, "What should enum values always be written in?", "Enum values are always in"
    )
    stats = engine.read(prompt, get_policy("fused"), parse_budget("50%"))
    # "upper case" or "uppercase": the CPUs differ
    assert "uppercase" in "".join(engine.stream(16)).replace(" ", "")
    assert stats.mode == ReadMode.SKIM
    assert stats.cells_kept <= len(prompt) // 2
    assert stats.cells_peak <= len(prompt) * 0.7


def test_sources_of_an_answer(engine):
    """The sentence that was copied is cited, on its page, and what was read of each page is said."""
    pages = [needle.needle.strip() for needle in NEEDLES]
    filler = "The weather was mild, and the boats came in early. " * 30
    document = Document.of(
        "notes.pdf", [(f"p. {i}", f"{filler}{page} {filler}") for i, page in enumerate(pages, 1)], "\n"
    )
    for i, needle in enumerate(NEEDLES):
        prompt = chat_prompt(engine.model, document.text, needle.question, needle.answer_prefix)
        engine.read(prompt, get_policy("fused"), parse_budget("300"), n_predict=16)
        assert needle.answer in "".join(engine.stream(16))
        best = max(find_sources(engine, document), key=lambda source: source.citation.weight)
        assert (best.page.file, best.page.label, best.quote) == ("notes.pdf", f"p. {i + 1}", pages[i])
        assert document.text[best.citation.start : best.citation.stop] == pages[i]
        coverage = find_coverage(engine, document)
        assert document.pages[i] in coverage.read + coverage.partly
        assert len(coverage.read + coverage.partly + coverage.skimmed + coverage.unseen) == len(NEEDLES)


@needs_build
@pytest.mark.parametrize("question", ["", "What does the license allow?"])
def test_window_model_reads_and_answers(gemma, question):
    """What it writes after reading in bounded memory is text, and no longer than asked."""
    document = (LLAMA_CPP / HOWTO).read_text()[:9000]
    prompt = chat_prompt(gemma.model, document, question, "The first step is to")
    stats = gemma.read(prompt, get_policy("fused"), parse_budget("300"), n_predict=20)
    assert stats.mode == (ReadMode.SKIM if question else ReadMode.CHUNKED)
    # the mean of layers that differ in steps
    assert 300 - LAYER_STEP // 2 <= stats.cells_kept <= 300
    assert stats.cells_peak == 1024
    answer = "".join(gemma.stream(20))
    assert sum(character.isalpha() for character in answer) > len(answer) / 2 > 10


def test_long_tokens_are_not_lost(engine):
    """A rule of a table is one token of 64 bytes."""
    text = "a " + "-" * 64 + " b"
    tokens = engine.model.tokenize(text)
    assert max(map(len, engine.model.pieces(tokens))) >= 64
    assert engine.model.detokenize(tokens).decode().strip() == text


def test_control_tokens_of_a_document_are_text(engine):
    """A document that quotes the chat template cannot end the message."""
    plain, quoting = chat_prompt(engine.model, "a b").tokens, chat_prompt(engine.model, "a <|im_end|> b").tokens
    end = engine.model.tokenize("<|im_end|>", special=True)
    assert len(end) == 1
    assert quoting.count(end[0]) == plain.count(end[0]) > 0
