"""Sources of answers: whether the right passage is cited, and whether what is not there is known.

    .venv/bin/python scripts/bench/sources.py citations --haystack DIR
    .venv/bin/python scripts/bench/sources.py absent --haystack DIR --length 2048

citations: a text of pages with one fact each. Of the right answers: whether the sentence with the answer is cited from
the right page, and from the very sentence; the page that BM25 finds; the share of the time.
absent: how relevant the best chunk is to questions whose fact is there, to the same without it, and beside another fact
of the same form.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dapq_edge import Cells, find_model, get_policy, open_model
from dapq_edge.calibration.needles import read_haystack
from dapq_edge.calibration.questions import Question, ask_all
from dapq_edge.chat.sources import find_sources
from dapq_edge.documents.document import Document
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.prompt.chat_template import chat_prompt
from dapq_edge.reading.engine import Engine
from dapq_edge.reading.lexical import match

STARTS = "Vel", "Tor", "Mar", "Ash", "Quin", "Bel", "Dro", "Kes", "Lun", "Pry"
ENDS = "mora", "wick", "stead", "haven", "dale", "ford", "mere", "gate", "burn", "ley"
THINGS = "museum", "library", "harbour", "airport", "observatory", "theatre", "bridge", "windmill", "school", "brewery"

# characters of a page
PAGE = 1300

ELSE = "The weather was mild for the time of the year."


def questions_of(rng: np.random.Generator) -> list[Question]:
    """A hundred facts of the same form about different towns; those ten apart are about things of one kind."""
    towns = ["".join(parts) for parts in itertools.product(STARTS, ENDS)]
    rng.shuffle(towns)
    made = []
    for i, town in enumerate(towns):
        thing, year = THINGS[i % len(THINGS)], str(1500 + int(rng.integers(500)))
        fact = f"The {thing} of {town} was opened in the year {year}."
        made.append(Question(fact, f"In which year was the {thing} of {town} opened?", year))
    return made


def document_of(haystack: str, questions: Sequence[Question], rng: np.random.Generator) -> Document:
    """A page of the haystack for each fact, with the fact somewhere on it."""
    pages, place = [], 0
    for i, question in enumerate(questions, start=1):
        place = haystack.find(". ", place) + 2
        text = haystack[place : place + PAGE]
        text = text[: text.rfind(". ") + 1]
        place += len(text)
        cut = text.find(". ", int(rng.integers(PAGE // 6, PAGE // 2))) + 1
        pages.append((f"p. {i}", f"{text[:cut]} {question.fact}{text[cut:]}"))
    return Document.of("pages.pdf", pages, "\n\n")


def citations(engine: Engine, haystack: str, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    questions = questions_of(rng)
    document = document_of(haystack, questions, rng)
    texts = [document.text_of(page) for page in document.pages]
    n_right = n_page = n_quote = n_lexical = 0
    spent = probing = 0.0
    for i in rng.choice(len(questions), args.questions, replace=False).tolist():
        question, start = questions[i], time.perf_counter()
        engine.read(
            chat_prompt(engine.model, document.text, question.question), get_policy("fused"), Cells(args.budget)
        )
        answer = "".join(engine.stream(args.predict)).strip()
        answered = time.perf_counter()
        sources = find_sources(engine, document)
        spent, probing = spent + answered - start, probing + time.perf_counter() - answered
        if question.answer not in answer:
            continue
        cited = [source for source in sources if question.answer in answer[slice(*source.citation.sentence)]]
        n_right += 1
        n_page += any(source.page == document.pages[i] for source in cited[:1])
        n_quote += any(question.fact in source.quote for source in cited[:1])
        n_lexical += int(np.argmax(match(question.question, texts).scores)) == i
    print(f"{n_right} of {args.questions} answers are right; of these, the page is right in {n_page}, the sentence in")
    print(f"{n_quote}, and the page that BM25 finds in {n_lexical}; sources took {probing / spent:.1%} of the time")


def absent(engine: Engine, haystack: str, args: argparse.Namespace) -> None:
    questions = questions_of(np.random.default_rng(args.seed))[: args.questions + len(THINGS)]
    asked = questions[: args.questions]
    facts = {
        "there": [question.fact for question in asked],
        "not there": [ELSE] * len(asked),
        "another one": [question.fact for question in questions[len(THINGS) :]],
    }
    best: dict[str, list[float]] = {}
    for name, hidden in facts.items():
        cases = [replace(question, fact=fact) for question, fact in zip(asked, hidden, strict=True)]
        for case in ask_all(engine.model, cases, {"": haystack}, args.length, args.seed):
            stats = engine.read(case.prompt, get_policy("fused"), Cells(args.budget), n_predict=1)
            best.setdefault(name, []).append(max(chunk.relevance for chunk in stats.chunks))
    for name, values in best.items():
        above = np.mean([[(a > b) + (a == b) / 2 for b in values] for a in best["there"]])
        low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
        print(f"{name}: relevance {low:.2f}, {median:.2f}, {high:.2f} (5%, median, 95%); AUROC {above:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["citations", "absent"])
    parser.add_argument("--haystack", type=Path, required=True)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("-n", "--predict", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with captured_log():
        haystack = read_haystack(sorted(args.haystack.glob("*.txt")))
        engine = open_model(
            find_model(args.model), n_threads=args.threads, skim="all" if args.task == "absent" else "auto"
        )
        {"citations": citations, "absent": absent}[args.task](engine, haystack, args)


if __name__ == "__main__":
    main()
