"""A real model on real text: what is read is found again after eviction."""

import os
from pathlib import Path

import pytest

from dapq_edge.budgets import Budget
from dapq_edge.errors import DapqError
from dapq_edge.evaluation.needle import Needle, cases, needle_prompt, read_haystack, read_needles
from dapq_edge.evaluation.snapshot import Snapshot
from dapq_edge.llama import Llama
from dapq_edge.models import find_model
from dapq_edge.policies import get_policy

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "niah"
DOCS = sorted(ROOT.glob(".build/llama_cpp_python-*/vendor/llama.cpp/docs/*.md"))

NEEDLES = [
    Needle(
        " The special magic number for Lisbon is 5820417. ",
        "What is the special magic number for Lisbon?",
        "The special magic number for Lisbon is",
        "5820417",
    ),
    Needle(
        " The registered name of the lighthouse keeper is Odalys Brandt. ",
        "What is the registered name of the lighthouse keeper?",
        "The registered name of the lighthouse keeper is",
        "Odalys Brandt",
    ),
    Needle(
        " The secret pass key for the greenhouse is TULIP-3096. ",
        "What is the secret pass key for the greenhouse?",
        "The secret pass key for the greenhouse is",
        "TULIP-3096",
    ),
]


@pytest.fixture(scope="module")
def llama():
    try:
        path = find_model("smollm2-135m")
    except DapqError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    llama = Llama(path, n_threads=2)
    llama.open_context(1024 + 64)
    return llama


def found(llama: Llama, needles: list[Needle], haystack: str, budgets: dict[str, str]) -> dict[str, int]:
    """How many of the needles at three depths each policy finds with its budget, and how many the full cache."""
    count = dict.fromkeys(["full", *budgets], 0)
    for needle, depth in cases(needles, (0.2, 0.5, 0.8)):
        tokens = needle_prompt(llama, needle, haystack, 1024, depth)
        assert 1000 < len(tokens) <= 1024
        llama.read(tokens, get_policy("full"), Budget.parse("100%"))
        snapshot = Snapshot(llama)
        count["full"] += needle.is_found_in("".join(llama.stream(12)))
        for policy, budget in budgets.items():
            snapshot.restore()
            get_policy(policy).evict(llama.kv_cache, Budget.parse(budget))
            count[policy] += needle.is_found_in("".join(llama.stream(12)))
    return count


@pytest.mark.skipif(not DOCS, reason="no .build: the documents are not there unless scripts/setup.sh built it")
def test_needles_in_the_docs_of_llama_cpp(llama):
    check(found(llama, NEEDLES, read_haystack(DOCS), {"dapq": "50%", "streaming": "50%"}))


@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared: the evaluation data is not part of the project")
def test_needles_in_essays(llama):
    needles = read_needles(SHARED / "needles.jsonl")[:4]
    check(found(llama, needles, read_haystack(sorted(SHARED.glob("*.txt"))), {"dapq": "50%", "streaming": "50%"}))


def check(count: dict[str, int]) -> None:
    print(count)
    assert count["full"] >= 7
    assert count["dapq"] >= 0.6 * count["full"]
    assert count["dapq"] > count["streaming"]


def test_answer_of_the_demo(llama):
    doc = next(ROOT.glob(".build/llama_cpp_python-*/vendor/llama.cpp/docs/development/HOWTO-add-model.md"), None)
    if doc is None:
        pytest.skip("no .build: the document is not there unless scripts/setup.sh built it")
    tokens = llama.chat_tokens(
        f"{doc.read_text()}\n\nWhich base class must a text model inherit from?", "The model class must inherit from"
    )
    llama.open_context(len(tokens) + 64)
    stats = llama.read(tokens, get_policy("dapq"), Budget.parse("50%"))
    assert "TextModel" in "".join(llama.stream(16))
    assert stats.cells_kept == -(-len(tokens) // 2)
    assert stats.bytes_kept == stats.bytes_read * stats.cells_kept // stats.cells_read


def test_control_tokens_of_a_document_are_text(llama):
    """A document that quotes the chat template cannot end the message."""
    plain, quoting = llama.chat_tokens("a b"), llama.chat_tokens("a <|im_end|> b")
    end = llama.tokenize(b"<|im_end|>", add_bos=False, special=True)
    assert len(end) == 1
    assert quoting.count(end[0]) == plain.count(end[0]) > 0
