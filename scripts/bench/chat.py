"""What daily use costs: memory of many turns, sessions, the drop-in against `llama_cpp.Llama`, what was left, waiting.

.venv/bin/python scripts/bench/chat.py turns --text ESSAYS.txt --plot turns.png
.venv/bin/python scripts/bench/chat.py session --text ESSAYS.txt
.venv/bin/python scripts/bench/chat.py overhead
.venv/bin/python scripts/bench/chat.py left --text ESSAYS.txt
.venv/bin/python scripts/bench/chat.py first --text ESSAYS.txt
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import llama_cpp
import psutil

from dapq_edge import Llama, find_model
from dapq_edge.chat.conversation import Chat
from dapq_edge.chat.session import load_session, save_session
from dapq_edge.control import Control
from dapq_edge.errors import AbortedError
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.reading import prompted, strategies
from dapq_edge.reading.beginning import Beginning
from dapq_edge.render.pictures import require_matplotlib, save

MIB = 2**20

# an answer that goes on
WORDS = 'root ::= ([a-z]+ " ")*'


def rss() -> float:
    return psutil.Process().memory_info().rss / MIB


def turns(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """A conversation that outgrows its budget and its context again and again."""
    lines = [line.strip() for line in args.text.read_text().replace("\n", " ").split(". ")]
    # a long one counts as a document, which is read again
    sentences = [line for line in lines if 40 < len(line) < 600]
    llama = Llama(**options, n_ctx=args.n_ctx, kv_budget=args.kv_budget)
    chat = Chat(llama, n_predict=24, temperature=0)
    rows, n_all = [], 0
    for turn in range(1, args.turns + 1):
        "".join(chat.ask(sentences[turn] + ". What do you think?"))
        usage = llama.usage
        n_all += 24 + len(llama.tokenize(sentences[turn].encode()))
        rows.append((turn, n_all, usage.n_tokens, usage.n_cells_used, usage.n_cells, rss()))
        if turn % 10 == 0:
            print(f"turn {turn}: {n_all:,} tokens so far, {usage}, RSS {rss():.0f} MiB", flush=True)
    first, last = rows[9], rows[-1]
    print(f"RSS after 10 turns {first[-1]:.0f} MiB, after {last[0]} turns {last[-1]:.0f} MiB; cells {last[4]}")
    if args.plot:
        draw(rows, llama, args.plot)


def draw(rows: list[tuple], llama: Llama, path: Path) -> None:
    require_matplotlib()
    import matplotlib.pyplot as plt

    per_cell = llama.usage.bytes_allocated / llama.usage.n_cells / MIB
    turn, n_all, _, used, cells, memory = zip(*rows, strict=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    left.plot(
        turn, [n * per_cell for n in n_all], color="#8a8f98", label="the full cache would take (without the template)"
    )
    left.plot(turn, [n * per_cell for n in cells], color="#1f6f8b", label="allocated")
    left.plot(turn, [n * per_cell for n in used], color="#c2703d", linewidth=0.8, label="used")
    left.set(xlabel="turn", ylabel="K and V, MiB", ylim=0)
    left.legend()
    right.plot(turn, memory, color="#1f6f8b")
    right.set(xlabel="turn", ylabel="memory of the process, MiB", ylim=0)
    figure.tight_layout()
    save(figure, path)


def session(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """Save and load a document that was read."""
    llama = Llama(**options, n_ctx=args.n_ctx + 512, kv_budget=args.kv_budget)
    tokens = llama.tokenize(args.text.read_bytes(), add_bos=False)[: args.n_ctx - 128]
    start = time.perf_counter()
    next(llama.generate(tokens, temp=0))
    print(f"read {len(tokens):,} tokens in {time.perf_counter() - start:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.session"
        saving = [seconds(lambda: save_session(llama, path, {})) for _ in range(5)]
        llama.close()
        llama = Llama(**options, n_ctx=args.n_ctx + 512, kv_budget=args.kv_budget)
        loading = [seconds(lambda: load_session(llama, path)) for _ in range(5)]
        size = path.stat().st_size / MIB
    medians = f"save {statistics.median(saving):.2f} s, load {statistics.median(loading):.2f} s"
    print(f"{size:.1f} MiB; {medians} (medians of 5)")


def overhead(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """A short chat, alternating."""
    ours = Llama(**options, n_ctx=2048, kv_budget=args.kv_budget)
    stock = llama_cpp.Llama(**options | {"model_path": str(options["model_path"])}, n_ctx=2048)
    times: dict[str, list[float]] = {"ours": [], "stock": []}
    for _ in range(args.rounds + 1):
        for name, llama in (("ours", ours), ("stock", stock)):
            times[name].append(seconds(lambda llama=llama: short_chat(llama)))
    # the first round warms up
    medians = {name: statistics.median(rows[1:]) for name, rows in times.items()}
    ratios = [a / b for a, b in zip(times["ours"][1:], times["stock"][1:], strict=True)]
    print(f"{medians} s; ratio {statistics.median(ratios):.3f} (median of {args.rounds} rounds)")


def short_chat(llama: llama_cpp.Llama) -> None:
    llama.reset()
    messages: list[Any] = []
    for question in ("Who are you?", "What is the capital of France?", "And of Italy?"):
        messages.append({"role": "user", "content": question})
        answer = llama.create_chat_completion(messages, max_tokens=32, temperature=0)
        messages.append(answer["choices"][0]["message"])


def left(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """Turns behind a title request, another answer to the same question, and attempts that were given up."""
    options |= {"n_ctx": args.n_ctx, "kv_budget": args.kv_budget}
    with tempfile.TemporaryDirectory() as store:
        llama = Llama(**options, store=store)
        tokens = llama.tokenize(args.text.read_bytes(), add_bos=False)
        document, other = (llama.detokenize(tokens[n : n + 4000]).decode("utf-8", "ignore") for n in (0, 4000))
        messages = [user(f"{document}\n\nWhat is this text about?")]
        print(f"first turn, 4,000 tokens: {timed(llama, messages):.1f} s")
        title = [user(f"### Task: write a title of this chat.\n\n{messages[0]['content'][-6000:]}")]
        for name, between in (("a turn", None), ("a turn after a title request", title)):
            if between:
                timed(llama, between)
            chat = list(messages)
            print(f"{name}: {timed(llama, chat, 'Thank you. Go on.'):.1f} s")
        # words, so that the answer does not end
        long = {"max_tokens": 600, "grammar": llama_cpp.LlamaGrammar.from_string(WORDS)}
        timed(llama, chat, "Write a long summary.", **long)
        print(f"the answer of 600 tokens again: {timed(llama, chat[:-1], **long):.1f} s")
        words = chat[-1]["content"].split(" ")
        changed = [*chat[:-1], {**chat[-1], "content": "\n".join(" ".join(words[i : i + 9]) for i in range(0, 600, 9))}]
        print(f"a turn behind it: {timed(llama, list(chat), 'Thank you. Go on.'):.1f} s")
        print(f"another turn, the answer with other white space: {timed(llama, changed, 'What comes next?'):.1f} s")
        llama.close()
        llama = Llama(**options, store=store)
        for attempt in range(2):
            end = time.perf_counter() + 5
            llama.control = Control(should_abort=lambda end=end: time.perf_counter() > end)
            try:
                timed(llama, [user(f"{other} Which text is this?")])
                print(f"attempt {attempt + 1} was done before 5 s")
            except AbortedError:
                pass
        llama.control = Control()
        print(f"third attempt behind two of 5 s: {timed(llama, [user(f'{other} Which text is this?')]):.1f} s")
        llama.close()
        llama = Llama(**options)
        print(f"the first attempt without a store: {timed(llama, [user(f'{other} Which text is this?')]):.1f} s")


def first(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """An answer of 100 tokens: seconds to its first and to its last token, by when it is evicted, alternating."""
    before = [patch.object(module, "can_be_due", lambda *_: False) for module in (prompted, strategies)]
    ways: dict[str, list[Any]] = {
        "evicted behind its first tokens": [],
        "evicted before": before,
        "evicted before, and written twice": [*before, patch.object(Beginning, "start", lambda self, **_: None)],
    }
    llama = Llama(**options, n_ctx=args.n_ctx, kv_budget=args.kv_budget)
    tokens = llama.tokenize(args.text.read_bytes(), add_bos=False)[: args.kv_budget + 400]
    document, times = llama.detokenize(tokens).decode("utf-8", "ignore"), {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, patches in ways.items():
            llama.reset()
            with contextlib.ExitStack() as stack:
                for each in patches:
                    stack.enter_context(each)
                start = time.perf_counter()
                to_first = timed(llama, [user(f"{document}\n\nWhat is this text about?")], max_tokens=100)
                times[name].append((to_first, time.perf_counter() - start))
    for name, rows in times.items():
        medians = [statistics.median(part) for part in zip(*rows, strict=True)]
        print(f"{len(tokens)} tokens, {name}: {medians[0]:.2f} s to the first token, {medians[1]:.2f} s in all")


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def timed(llama: Llama, messages: list[Any], question: str = "", **options: Any) -> float:
    """Ask, and return the seconds to the first token; the messages get the question and the answer."""
    if question:
        messages.append(user(question))
    start, first, text = time.perf_counter(), None, ""
    options = {"max_tokens": 24, "temperature": 0, "stream": True, **options}
    for chunk in llama.create_chat_completion(list(messages), **options):
        text += chunk["choices"][0]["delta"].get("content") or ""
        first = first or (time.perf_counter() if text else None)
    messages.append({"role": "assistant", "content": text})
    return (first or time.perf_counter()) - start


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["turns", "session", "overhead", "left", "first"])
    parser.add_argument("--text", type=Path)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-c", dest="n_ctx", type=int, default=8192)
    parser.add_argument("--kv-budget", type=int, default=1024)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    threads = {"n_threads": args.threads, "n_threads_batch": args.threads}
    options = {"model_path": find_model(args.model), "flash_attn": True, "verbose": False, **threads}
    tasks = {"turns": turns, "session": session, "overhead": overhead, "left": left, "first": first}
    tasks[args.task](args, options)


if __name__ == "__main__":
    with captured_log():
        main()
