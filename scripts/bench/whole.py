"""Lists of what stands in all of a document: records hidden in essays, listed window by window, and by a skim.

    .venv/bin/python scripts/bench/whole.py list --haystack DIR
    .venv/bin/python scripts/bench/whole.py flat --haystack DIR --length 12288 --seed 3

list: "alone" counts the records that the model finds if it is asked about their window only, as a text of its own,
without the hint that `--whole` puts behind the question, "whole" those that `ask --whole on` lists, "wrong" items that
are no record, "skim" the records in the answer of `ask --whole off`.
flat: questions that ask for all by their words, of which some are answered in one place: how relevant the best chunk
is, and how many times as relevant as the next ones together, which `is_flat` looks at.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dapq_edge import Cells, Share, find_model, get_policy, open_model
from dapq_edge.calibration.needles import read_haystack
from dapq_edge.chat.joined import Joined
from dapq_edge.documents.document import Document
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.prompt.chat_template import chat_prompt
from dapq_edge.prompt.extent import extent_of
from dapq_edge.reading.choice import Chunk
from dapq_edge.reading.engine import Engine
from dapq_edge.reading.flat import N_OTHERS, is_flat
from dapq_edge.reading.items import repeats
from dapq_edge.reading.whole import asked_of_each, windows_of

STARTS = "Vel", "Tor", "Mar", "Ash", "Quin", "Bel", "Dro", "Kes", "Lun", "Pry"
ENDS = "mora", "wick", "stead", "haven", "dale", "ford", "mere", "gate", "burn", "ley"

# numbers from here on: years before those of the essays
LEAST = 1300

# kinds of records, what is asked of them, and what an answer must have of a record
KINDS = {
    "libraries": (
        "The library of {name} was opened in the year {number}.",
        "List all libraries and the year in which each was opened.",
        "name",
    ),
    "numbers": ("The special magic number for {name} is {number}.", "List all special magic numbers.", "number"),
}

# sentences that stand in one place, and questions that they answer
IN_ONE_PLACE = {
    "The committee of Ashford has three members: Anna Bolt, Carl Dew and Eva Finn.": (
        "List all members of the committee of Ashford."
    ),
    "In the log of the Kesmere, fourteen passengers are named.": (
        "How many passengers are named in the log of the Kesmere?"
    ),
    "The first draft differs from the second one in its price, which is 40 crowns, and in its date.": (
        "What are the differences between the first and the second draft?"
    ),
    "The harbour report says, in short, that the fees rose by a fifth and that nine ships left for good.": (
        "Summarize the harbour report."
    ),
    "The bakery sells rye bread, plum cake, poppy rolls and salted pretzels.": "List everything that the bakery sells.",
    "The keys of the vault are kept by the miller, the priest and the smith.": (
        "Name all people who keep a key of the vault."
    ),
    "The orchestra of Lunwick played four pieces that night: a march, a waltz, a hymn and a polka.": (
        "How many pieces did the orchestra of Lunwick play, and list each of them."
    ),
    "The oak desk costs 90 crowns and weighs two stone, the pine desk costs 60 and weighs one.": (
        "Compare the oak desk and the pine desk."
    ),
    "Her will names the house, the orchard and the silver as what goes to her niece.": (
        "List all things that her niece gets by the will."
    ),
    "The three causes of the flood were the thaw, the broken sluice and the new mill.": (
        "Give me a list of the causes of the flood."
    ),
}
IN_ALL = [
    "Summarize it.",
    "What are the main points?",
    "List all people who are mentioned.",
    "List all companies that are mentioned.",
    "How many companies are mentioned?",
    "List all libraries and the year in which each was opened.",
    "How many libraries are mentioned?",
    "Compare the libraries by their age.",
    "Compare what the author says about Apple and Google.",
    "What is this document about?",
    "List all questions that the author asks.",
    "How many different years are mentioned?",
    "Fasse den Text zusammen.",
    "List all startups.",
    "Give me a short summary.",
    "List all pieces of advice.",
]


@dataclass(frozen=True)
class Record:
    """A sentence, and what an answer must say of it."""

    text: str
    asked: str

    def is_in(self, answer: str) -> bool:
        return self.asked in answer


def records_of(kind: str, n: int, rng: np.random.Generator) -> list[Record]:
    names = ["".join(parts) for parts in itertools.product(STARTS, ENDS)]
    rng.shuffle(names)
    numbers = map(str, rng.choice(np.arange(LEAST, LEAST + 500), n, replace=False).tolist())
    sentence, _, asked = KINDS[kind]
    made = [{"name": name, "number": number} for name, number in zip(names, numbers, strict=False)]
    return [Record(sentence.format(**one), one[asked]) for one in made]


def document_of(engine: Engine, haystack: str, records: list[Record], n_tokens: int, rng: np.random.Generator) -> str:
    """Return a text of so many tokens, with a record somewhere in each part of it."""
    n_records = sum(len(engine.model.tokenize(f" {record.text}")) for record in records)
    text = engine.model.detokenize(engine.model.tokenize(haystack)[: n_tokens - n_records]).decode("utf-8", "replace")
    parts, place, size = [], 0, len(text) // len(records)
    for i, record in enumerate(records):
        cut = text.find(". ", i * size + int(rng.integers(size // 4, size // 2))) + 1
        parts.append(f"{text[place:cut]} {record.text}")
        place = cut
    return "".join([*parts, text[place:]]).strip()


def written(engine: Engine, n: int) -> str:
    """Return what the model answers, until it goes round."""
    text = ""
    for piece in engine.stream(n):
        text += piece
        if repeats(text):
            break
    return text


def found_alone(engine: Engine, text: str, question: str, records: list[Record], n: int) -> set[Record]:
    """Return the records that are found in their own window; one on a border is asked in the first that has it all."""
    prompt, found = chat_prompt(engine.model, text, question), set()
    left = list(records)
    for window in windows_of(prompt, engine.model.n_ctx_train):
        tokens = prompt.body[window.start : window.stop]
        part = engine.model.detokenize(tokens).decode("utf-8", "replace")
        here = [record for record in left if record.text in part]
        left = [record for record in left if record not in here]
        if here:
            engine.read(chat_prompt(engine.model, part, question), get_policy("full"), Share(100), n_predict=n)
            answer = written(engine, n)
            found |= {record for record in here if record.is_in(answer)}
            print(f"alone: {[record.asked for record in here]}: {answer!r}", flush=True)
    return found


def flat(engine: Engine, haystack: str, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    text = document_of(engine, haystack, records_of("libraries", args.records, rng), args.length, rng)
    for i, fact in enumerate(IN_ONE_PLACE):
        cut = text.find(". ", int(len(text) * (i + 0.5) / len(IN_ONE_PLACE))) + 1
        text = f"{text[:cut]} {fact}{text[cut:]}"
    for kind, questions in (("one place", IN_ONE_PLACE.values()), ("all", IN_ALL)):
        n_flat = 0
        for question in questions:
            chunks = look(engine, text, question, args)
            best, *others = sorted((chunk.relevance for chunk in chunks), reverse=True)
            n_flat += is_flat(chunks)
            print(f"{kind}: {question} {best:.3f}, {best / sum(others[:N_OTHERS]):.2f} times the next", flush=True)
        print(f"{kind}: {n_flat} of {len(questions)} are flat", flush=True)


def look(engine: Engine, text: str, question: str, args: argparse.Namespace) -> list[Chunk]:
    """Return the chunks of a text, with their relevance."""
    found: list[Chunk] = []

    def goes_on(chunks: Sequence[Chunk]) -> bool:
        found.extend(chunks)
        return False

    prompt = chat_prompt(engine.model, text, question)
    engine.read(prompt, get_policy("fused"), Cells(args.kv_budget), n_predict=1, goes_on=goes_on)
    return found


def list_all(engine: Engine, haystack: str, kind: str, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    records, question = records_of(kind, args.records, rng), KINDS[kind][1]
    text = document_of(engine, haystack, records, args.length, rng)
    document = Document.of("essays.txt", [("", text)], "")
    alone = found_alone(engine, text, question, records, args.predict)

    asked = asked_of_each(question, extent_of(question))
    prompt, start = chat_prompt(engine.model, text, asked), time.perf_counter()
    joined, n_cut, n_windows = Joined(engine.model, prompt, document, asked, is_copied=True), 0, 0
    for answer in engine.answer_windows(prompt):
        joined.add(answer)
        n_cut, n_windows = n_cut + answer.is_cut, n_windows + 1
        print(f"whole: {answer.text!r}", flush=True)
    seconds = time.perf_counter() - start
    items = [item.text for item in joined.items]
    listed = {record for record in records if any(record.is_in(item) for item in items)}
    n_wrong = sum(not any(record.is_in(item) for record in records) for item in items)

    prompt, start = chat_prompt(engine.model, text, question), time.perf_counter()
    stats = engine.read(prompt, get_policy("fused"), Cells(args.kv_budget), n_predict=args.predict)
    answer = written(engine, args.predict)
    print(f"skim: {answer!r}")
    n_skimmed = sum(record.is_in(answer) for record in records)
    both = len(listed & alone)
    print(
        f"{kind}: {len(records)} records in {len(prompt):,} tokens, {n_windows} windows; alone {len(alone)}, "
        f"whole {len(listed)} ({both} of those), wrong {n_wrong}, cut {n_cut}, {seconds:.0f} s; "
        f"skim {n_skimmed}, {time.perf_counter() - start:.0f} s; {'flat' if is_flat(stats.chunks) else 'not flat'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["list", "flat"])
    parser.add_argument("--haystack", type=Path, required=True)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--records", type=int, default=20)
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--kv-budget", type=int, default=1024)
    parser.add_argument("-n", "--predict", type=int, default=96)
    parser.add_argument("--store", type=Path, help="folder that keeps what was read")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with captured_log():
        engine = open_model(find_model(args.model), n_threads=args.threads, skim="all", store=args.store)
        haystack = read_haystack(sorted(args.haystack.glob("*.txt")))
        if args.task == "flat":
            flat(engine, haystack, args)
        for kind in args.kinds if args.task == "list" else []:
            list_all(engine, haystack, kind, args)


if __name__ == "__main__":
    main()
