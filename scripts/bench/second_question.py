"""The second question about a document: is it answered when the first one decided what is kept?

    .venv/bin/python scripts/bench/second_question.py --haystack DIR --needles FILE

Each document has two facts. Asked are the first one, the second one, and the first one again, in one conversation, with
the full cache, with one-shot eviction and with reading in bounded memory, without and with re-reading.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dapq_edge import Llama, find_model
from dapq_edge.calibration.needles import Needle, read_haystack, read_needles
from dapq_edge.chat.conversation import Chat
from dapq_edge.llamacpp.log import captured_log


def always(*_: object) -> bool:
    """Say that the kept cells serve the question, so that nothing is read again."""
    return True


# how a model is opened, beside the budget
WAYS: dict[str, dict[str, Any]] = {
    "full cache": {"kv_budget": None},
    "one-shot": {"one_shot": True, "serves": always},
    "one-shot, re-reading": {"one_shot": True},
    "bounded": {"serves": always},
    "bounded, re-reading": {},
    "bounded, with a store": {"skim": "all"},
}


@dataclass
class Document:
    """A text with two facts in it."""

    text: str
    first: Needle
    second: Needle


def make_document(llama: Llama, haystack: str, needles: Sequence[Needle], n_tokens: int, seed: int) -> Document:
    """Make about `n_tokens` tokens, the facts at random places at least a quarter of the text apart."""
    rng = np.random.default_rng(seed)
    first, second = (needles[i] for i in rng.choice(len(needles), 2, replace=False))
    depth = rng.uniform(0.05, 0.65)
    depths = [depth, rng.uniform(depth + 0.25, 0.95)]
    rng.shuffle(depths)
    start = int(rng.integers(0, len(haystack) // 2))
    start = haystack.index(". ", start) + 2
    tokens = llama.tokenize(haystack[start : start + 8 * n_tokens].encode(), add_bos=False)[: n_tokens - 128]
    text = llama.detokenize(tokens).decode("utf-8", "ignore")
    for depth, needle in sorted(zip(depths, (first, second), strict=True), key=lambda pair: -pair[0]):
        cut = text.find(". ", int(depth * len(text))) + 1
        text = text[:cut] + needle.needle + text[cut + 1 :]
    return Document(text, first, second)


def ask(llama: Llama, document: Document, n_predict: int) -> tuple[list[bool], list[bool], list[bool]]:
    """Return which of the three answers are right, for which of them the text was chosen from again, and read."""
    llama.reset()
    chat = Chat(llama, n_predict=n_predict, temperature=0)
    chat.add_document(document.text)
    found, reread, is_read = [], [], []
    for needle in (document.first, document.second, document.first):
        before, last = llama.usage.n_rereads, llama.engine.last_read
        found.append(needle.answer.lower() in "".join(chat.ask(needle.question)).lower())
        reread.append(llama.usage.n_rereads > before)
        read = llama.engine.last_read
        # what was said since may be read beside it
        is_read.append(read is not last and 2 * read.n_stored < read.n_windows[0])
    return found, reread, is_read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haystack", type=Path, required=True)
    parser.add_argument("--needles", type=Path, required=True)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--kv-budget", type=int, default=256)
    parser.add_argument("-n", "--predict", type=int, default=24)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    haystack, needles = read_haystack(sorted(args.haystack.glob("*.txt"))), read_needles(args.needles)
    table = Table(title=f"{args.documents} documents of {args.length:,} tokens, {args.kv_budget} cells: answers found")
    for heading in ("", "first", "second", "first again", "re-read for the second", "for the first again", "readings"):
        table.add_column(heading, justify="left" if not heading else "right")
    options = {"n_threads": args.threads, "n_threads_batch": args.threads, "flash_attn": True, "verbose": False}
    options |= {"n_ctx": 2 * args.length, "kv_budget": args.kv_budget}
    for name in args.ways:
        folder = tempfile.mkdtemp() if "store" in name else None
        llama = Llama(find_model(args.model), **options | WAYS[name], store=folder)
        documents = [make_document(llama, haystack, needles, args.length, args.seed + i) for i in range(args.documents)]
        results = []
        for i, document in enumerate(documents, start=1):
            results.append(ask(llama, document, args.predict))
            print(f"{name}: {i} of {len(documents)}: {results[-1]}", flush=True)
        found, reread, is_read = (np.sum([result[i] for result in results], axis=0) for i in range(3))
        table.add_row(name, *map(str, found), *map(str, reread[1:]), str(is_read.sum()))
        llama.close()
    Console().print(table)


if __name__ == "__main__":
    with captured_log():
        main()
