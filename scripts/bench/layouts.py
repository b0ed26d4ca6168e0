"""Compare what is kept of a fact in prompts that ask for it in different places with the plain layout.

    .venv/bin/python scripts/bench/layouts.py [-m MODEL] [--kv-budget 512] [--json OUT.jsonl]

Each layout is one question about one document, of about 2,600 tokens, with one fact in it. The kept share is the mean
share of the KV heads that keep the tokens of the fact when the answer begins.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import median

from dapq_edge import Llama
from dapq_edge.planning.weights import find_model

DOCS = Path(__file__).parents[2] / "docs"
N_CHARACTERS = 10_500

WHO = ["A sailor", "The cook", "Our guide", "The old clerk", "A painter", "Two girls", "The guard", "My uncle"]
DOES = ["swept the yard", "wrote a list", "moved the boxes", "fed the horses", "read the paper", "fixed the lamp"]
WHEN = ["at dawn", "after lunch", "in the rain", "on market day", "before the storm", "once more"]

Message = dict[str, object]


@dataclass(frozen=True)
class Fact:
    """A fact, the question for it, what the answer must hold, and the question in other words."""

    text: str
    question: str
    answer: str
    order: str


FACTS = [
    Fact(
        "The access code of the harbour office is 48213.",
        "What is the access code of the harbour office?",
        "48213",
        "Tell me the access code of the harbour office.",
    ),
    Fact(
        "The red boat of the ferry company is called Morning Star.",
        "What is the red boat of the ferry company called?",
        "Morning Star",
        "Give the name of the red boat of the ferry company.",
    ),
    Fact(
        "The phone number of the lighthouse keeper is 5590176.",
        "What is the phone number of the lighthouse keeper?",
        "5590176",
        "Write down the phone number of the lighthouse keeper.",
    ),
]


def notes(seed: int) -> list[str]:
    """Return paragraphs of plain sentences."""
    rng = random.Random(seed)
    sentences = [f"{rng.choice(WHO)} {rng.choice(DOES)} {rng.choice(WHEN)}." for _ in range(270)]
    return [" ".join(sentences[i : i + 6]) for i in range(0, len(sentences), 6)]


def pages(*names: str) -> list[str]:
    """Return paragraphs of this project's own documentation."""
    text = "\n\n".join((DOCS / name).read_text() for name in names)
    return text[:N_CHARACTERS].rpartition("\n\n")[0].split("\n\n")


DOCUMENTS: dict[str, Callable[[], list[str]]] = {
    "notes": lambda: notes(0),
    "limits": lambda: pages("limits.md", "policies.md"),
    "python": lambda: pages("python.md", "server.md"),
}


def layouts(paragraphs: list[str], fact: Fact) -> dict[str, list[Message]]:
    """Return messages that ask for a fact in the middle of a document."""
    half = len(paragraphs) // 2
    doc = "\n\n".join([*paragraphs[:half], fact.text, *paragraphs[half:]])
    first, second = "\n\n".join([*paragraphs[:half], fact.text]), "\n\n".join(paragraphs[half:])
    ask, rules = fact.question, "Instructions:\n- Use only the text.\n- Answer in one short sentence."
    story = " ".join(f"On day {i} I asked at desk {i % 7}, and nobody there could help me." for i in range(22))
    manual = "Instructions:\n" + "\n".join(
        f"- Rule {i}: no word of list {i} is used, nor what it means." for i in range(12)
    )
    shots = (
        "Text: The door is green.\nQuestion: What colour is the door?\nAnswer: The door is green.\n\n"
        "Text: The dog is called Rex.\nQuestion: What is the dog called?\nAnswer: The dog is called Rex.\n\n"
    )
    rule = "You are a clerk. Be polite, and never invent anything. " + " ".join(
        f"Rule {i}: letters for room {i} go to shelf {i + 3}." for i in range(9)
    )
    tools = "\n".join(
        f'{{"name": "tool_{i}", "description": "Does step {i} of the work and returns a report", "parameters": '
        f'{{"type": "object", "properties": {{"step_{i}": {{"type": "string"}}}}}}}}'
        for i in range(70)
    )

    def one(text: str) -> list[Message]:
        return [{"role": "user", "content": text}]

    def system(text: str, *rest: str) -> list[Message]:
        turns = zip(["user", "assistant"] * len(rest), rest, strict=False)
        return [{"role": "system", "content": text}, *({"role": role, "content": said} for role, said in turns)]

    return {
        "plain": one(f"{doc}\n\n{ask}"),
        "thanks": one(f"{doc}\n\n{ask}\n\nThanks in advance!"),
        "instructions after": one(f"{doc}\n\n{ask}\n\n{rules}"),
        "200 tokens of instructions": one(f"{doc}\n\n{ask}\n\n{manual}"),
        "an order": one(f"{doc}\n\n{fact.order}"),
        "question first": one(f"Read the text and answer: {ask}\n\n{doc}"),
        "question first, bare": one(f"{ask}\n\n{doc}"),
        "question first and a reminder": one(f"{ask}\n\n{doc}\n\nAnswer the question above."),
        "question in the middle": one(f"{first}\n\n{ask}\n\n{second}"),
        "two documents, question between": one(f"Document 1:\n{first}\n\n{ask}\n\nDocument 2:\n{second}"),
        "tags": one(f"<document>\n{doc}\n</document>\n<question>{ask}</question>"),
        "tags, question first": one(f"<question>\n{ask}\n</question>\n<document>\n{doc}\n</document>"),
        "headings": one(f"## Context\n{doc}\n\n## Question\n{ask}\n\n## Answer"),
        "a RAG prompt": one(
            f"Context information is below.\n---------------------\n{doc}\n---------------------\n"
            f"Given the context information and not prior knowledge, answer the query.\nQuery: {ask}\nAnswer: "
        ),
        "question in the system message": system(f"Answer this about the text that you are given: {ask}", doc),
        "document in the system message": system(f"Use this text.\n\n{doc}", ask),
        "system message of 150 tokens": system(rule, f"{doc}\n\n{ask}"),
        "an agent's tools": system(f"You are an agent. You have these tools:\n{tools}", f"{doc}\n\n{ask}"),
        "examples first": one(f"{shots}Text: {doc}\nQuestion: {ask}\nAnswer:"),
        "CR LF": one(f"{doc}\n\n{ask}\n\nThanks!".replace("\n", "\r\n")),
        "two parts": [
            {"role": "user", "content": [{"type": "text", "text": doc}, {"type": "text", "text": ask}]},
        ],
        "two messages": [*one(doc), *one(ask)],
        "one line break": one(f"{doc}\n{ask}"),
        "one paragraph": one(f"{' '.join(doc.split())} {ask}"),
        "a long question": one(f"{doc}\n\n{story} {ask} I need it today."),
        "asked a turn before": system("Be brief.", f"I will send you a text. {ask}", "Send it, please.", doc),
        "a remark after it": system("Be brief.", f"{doc}\n\n{ask}", "One moment.", "Thank you, go on."),
    }


@dataclass(frozen=True)
class Row:
    """Result of one layout."""

    document: str
    layout: str
    kept: float
    is_right: bool
    is_right_full: bool | None
    seconds: float
    n_tokens: int


def kept_share(pieces: list[tuple[str, float]], text: str) -> float:
    """Return the mean share of the heads that keep the tokens of `text`."""
    start = "".join(piece for piece, _ in pieces).replace("\r", "").index(text)
    shares, place = [], 0
    for piece, share in pieces:
        if place < start + len(text) and place + len(piece) > start:
            shares.append(share)
        place += len(piece.replace("\r", ""))
    return sum(shares) / len(shares)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--kv-budget", default="512")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="layouts whose names hold one of these")
    parser.add_argument("--full", action="store_true", help="ask the full cache, too")
    parser.add_argument("--json", metavar="OUT.jsonl")
    options = parser.parse_args()
    path = find_model(options.model)
    llama = Llama(path, n_ctx=16384, kv_budget=options.kv_budget, verbose=False, n_threads=2, flash_attn="auto")
    full = Llama(path, n_ctx=16384, kv_budget=None, verbose=False, n_threads=2) if options.full else None
    rows = []
    for (name, paragraphs), fact in zip(DOCUMENTS.items(), FACTS, strict=True):
        for layout, messages in layouts(paragraphs(), fact).items():
            if layout != "plain" and not any(word in layout for word in options.only):
                continue
            answer, seconds = ask(llama, messages)
            expected = ask(full, messages)[0] if full else None
            rows.append(
                Row(
                    name,
                    layout,
                    round(kept_share(llama.kept(), fact.text), 3),
                    fact.answer in answer,
                    None if expected is None else fact.answer in expected,
                    round(seconds, 2),
                    llama.n_tokens,
                )
            )
            print(json.dumps(asdict(rows[-1])), repr(answer[:60]), file=sys.stderr)
            if options.json:
                with Path(options.json).open("a") as file:
                    print(json.dumps(asdict(rows[-1])), file=file)
    report(rows)
    return 0


def ask(llama: Llama, messages: list[Message]) -> tuple[str, float]:
    """Return the answer, and the seconds to its first token."""
    llama.reset()
    start, first, text = time.perf_counter(), 0.0, ""
    for chunk in llama.create_chat_completion(messages, max_tokens=24, temperature=0.0, stream=True):
        piece = chunk["choices"][0]["delta"].get("content") or ""
        first = first or (time.perf_counter() if piece else 0.0)
        text += piece
    return text, (first or time.perf_counter()) - start


def report(rows: list[Row]) -> None:
    """Print a table: each layout against the plain one of the same document."""
    plain = {row.document: row for row in rows if row.layout == "plain"}
    print("| layout | kept | of plain | right | full cache right | seconds of plain |\n|---|---|---|---|---|---|")
    key = lambda row: row.layout  # noqa: E731
    order = list(dict.fromkeys(map(key, rows)))
    for layout, group in groupby(sorted(rows, key=lambda row: order.index(row.layout)), key=key):
        found = list(group)
        kept = " / ".join(f"{row.kept:.2f}" for row in found)
        of_plain = " / ".join(f"{row.kept / plain[row.document].kept:.2f}" for row in found)
        full = sum(bool(row.is_right_full) for row in found) if found[0].is_right_full is not None else "-"
        seconds = median(row.seconds / plain[row.document].seconds for row in found)
        right = sum(row.is_right for row in found)
        print(f"| {layout} | {kept} | {of_plain} | {right} | {full} | {seconds:.2f} |")


if __name__ == "__main__":
    raise SystemExit(main())
