"""A real model on real text: what is read is found again after eviction."""

import os
from pathlib import Path

import pytest

from dapq_edge.budgets import Budget
from dapq_edge.errors import DapqError
from dapq_edge.evaluation.needle import Needle, needle_prompt, read_haystack, read_needles
from dapq_edge.evaluation.snapshot import Snapshot
from dapq_edge.llama import Llama
from dapq_edge.models import find_model
from dapq_edge.policies import get_policy
from dapq_edge.reader import Way

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "niah"
LLAMA_CPP = next(ROOT.glob(".build/llama_cpp_python-*/vendor/llama.cpp"), None)
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

needs_build = pytest.mark.skipif(not LLAMA_CPP, reason="no .build: the documents come with scripts/setup.sh")
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no ../shared: the evaluation data is not in the project")


def load(alias: str) -> Llama:
    try:
        path = find_model(alias)
    except DapqError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return Llama(path, n_threads=2)


@pytest.fixture(scope="module")
def llama():
    return load("smollm2-135m")


def found(llama: Llama, needles: list[Needle], haystack: str) -> dict[str, int]:
    """How many of the needles the full cache finds, and how many each policy with a quarter of it."""
    count = {"full": 0, "dapq": 0, "streaming": 0}
    for needle in needles:
        prompt = needle_prompt(llama, [needle], haystack, 1536, [0.3])
        assert 1500 < len(prompt) <= 1536
        llama.read(prompt, get_policy("full"), Budget.parse("100%"), n_predict=64)
        snapshot = Snapshot(llama)
        for policy in count:
            snapshot.restore()
            get_policy(policy).evict(llama.kv_cache, len(prompt) // 4)
            count[policy] += needle.is_found_in("".join(llama.stream(12)))
    return count


def check(count: dict[str, int]) -> None:
    assert count["full"] >= 2, count
    assert count["dapq"] > count["streaming"], count


@needs_build
def test_needles_in_the_docs_of_llama_cpp(llama):
    check(found(llama, NEEDLES, read_haystack([LLAMA_CPP / "CONTRIBUTING.md", LLAMA_CPP / "SECURITY.md"])))


@needs_shared
def test_needles_in_essays(llama):
    wanted = {"Halcyon Voss", "Ostrava"}
    needles = [needle for needle in read_needles(SHARED / "needles.jsonl") if needle.answer in wanted]
    check(found(llama, NEEDLES + needles, read_haystack(sorted(SHARED.glob("*.txt")))))


@needs_build
def test_answer_of_the_demo(llama):
    document = (LLAMA_CPP / HOWTO).read_text()
    question = "Which base class must a text model inherit from?"
    prompt = llama.chat_prompt(document, question, "The model class must inherit from")
    stats = llama.read(prompt, get_policy("dapq"), Budget.parse("50%"))
    assert "TextModel" in "".join(llama.stream(16))
    assert stats.way == Way.SKIM and stats.cells_kept <= len(prompt) // 2 and stats.cells_peak <= len(prompt) * 0.7


@needs_build
@pytest.mark.parametrize("question", ["", "What does the license allow?"])
def test_window_model_reads_and_answers(question):
    """Gemma 3 270M, a base model: what it writes after reading in bounded memory is text, and no longer than asked."""
    llama = load("gemma3-270m")
    document = (LLAMA_CPP / HOWTO).read_text()[:9000]
    prompt = llama.chat_prompt(document, question, "The first step is to")
    stats = llama.read(prompt, get_policy("dapq"), Budget.parse("300"), n_predict=20)
    assert stats.way == (Way.SKIM if question else Way.ONE_PASS)
    assert stats.cells_kept == 300 and stats.cells_peak == 1024
    answer = "".join(llama.stream(20))
    assert sum(character.isalpha() for character in answer) > len(answer) / 2 > 10
    llama.close()


def test_control_tokens_of_a_document_are_text(llama):
    """A document that quotes the chat template cannot end the message."""
    plain, quoting = llama.chat_prompt("a b").tokens, llama.chat_prompt("a <|im_end|> b").tokens
    end = llama.tokenize(b"<|im_end|>", add_bos=False, special=True)
    assert len(end) == 1
    assert quoting.count(end[0]) == plain.count(end[0]) > 0
