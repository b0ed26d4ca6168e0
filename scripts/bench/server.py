"""A server under load: many clients at once, a short queue, and clients that come again when they are told to.

.venv/bin/python scripts/bench/server.py --seconds 120

Every second request of a client streams. A request is lost if it gets neither its whole answer nor a 429.
"""

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
from rich.console import Console
from rich.table import Table

# seconds that the server gets to load the model, and a client to get its last answer
PATIENCE = 120


@dataclass
class Counts:
    """What the clients saw. first_token: seconds from the try that was accepted; waits: from the first try."""

    answers: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--seconds", type=float, default=120, help="clients begin no request after these")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--queue", type=int, default=16, help="requests that may wait")
    parser.add_argument("--predict", type=int, default=16, help="tokens of an answer")
    args = parser.parse_args()

    with serving(args.model, args.queue) as url:
        counts, n_served = asyncio.run(load(url, args))
    show(counts, n_served, args)
    return 1 if counts.lost or n_served != counts.answers.total() else 0


@contextlib.contextmanager
def serving(model: str, n_waiting: int) -> Iterator[str]:
    """Yield the address of a server in a process of its own."""
    command = [sys.executable, "-m", "dapq_edge", "serve", "-m", model, "--port", "0", "-c", "2048"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, "--queue", str(n_waiting)], stderr=log)
        try:
            for _ in range(10 * PATIENCE):
                time.sleep(0.1)
                log.seek(0)
                text = log.read()
                if match := re.search(r"listening on (\S+)", text):
                    break
                if process.poll() is not None:
                    sys.exit(text.strip())
            else:
                sys.exit("the server does not start")
            yield match[1]
        finally:
            process.terminate()
            process.wait()


async def load(url: str, args: argparse.Namespace) -> tuple[Counts, int]:
    """Return what the clients saw, and how many answers the server counted."""
    counts = Counts()
    limits = httpx.Limits(max_connections=args.clients)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as client:
        stop = time.monotonic() + args.seconds
        await asyncio.gather(*(one_client(client, i, stop, args.predict, counts) for i in range(args.clients)))
        metrics = (await client.get("/metrics")).text
    served = re.search(r'^dapq_requests_total\{path="/v1/chat/completions",status="200"\} (\S+)', metrics, re.MULTILINE)
    return counts, int(float(served[1])) if served else 0


async def one_client(client: httpx.AsyncClient, number: int, stop: float, n_predict: int, counts: Counts) -> None:
    turn = number
    while time.monotonic() < stop:
        turn += 1
        question = {"role": "user", "content": f"What comes after {turn}?"}
        body = {"messages": [question], "max_tokens": n_predict, "stream": turn % 2 == 0}
        start = time.monotonic()
        try:
            while (pause := await attempt(client, body, start, counts)) is not None:
                await asyncio.sleep(pause)
        except (httpx.HTTPError, ValueError, LookupError) as error:
            counts.lost.append(f"{type(error).__name__}: {error}")


async def attempt(client: httpx.AsyncClient, body: dict, start: float, counts: Counts) -> float | None:
    """Return the seconds to come again after, or None if there is an answer. Raises ValueError if it is not whole."""
    begin = time.monotonic()
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code == 429:
            counts.refused += 1
            return float(response.headers["retry-after"])
        if response.status_code != 200:
            raise ValueError((await response.aread()).decode())
        if body["stream"]:
            end = await last_reason(response, counts, begin, start)
        else:
            end = json.loads(await response.aread())["choices"][0]["finish_reason"]
    if end not in ("stop", "length"):
        raise ValueError(f"the answer ends with {end}")
    counts.answers["streamed" if body["stream"] else "at once"] += 1
    return None


async def last_reason(response: httpx.Response, counts: Counts, begin: float, start: float) -> str | None:
    """Return why a stream ends."""
    reason, is_done, is_first = None, False, True
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        is_done = line == "data: [DONE]"
        if is_first:
            counts.first_token.append(time.monotonic() - begin)
            counts.waits.append(time.monotonic() - start)
            is_first = False
        if not is_done:
            reason = json.loads(line[6:])["choices"][0]["finish_reason"] or reason
    return reason if is_done else None


def show(counts: Counts, n_served: int, args: argparse.Namespace) -> None:
    title = f"{args.clients} clients for {args.seconds:g} s, {args.queue} may wait, answers of {args.predict} tokens"
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for kind, n_answers in sorted(counts.answers.items()):
        table.add_row(f"answers, {kind}", f"{n_answers:,}")
    table.add_row("answers that the server counted", f"{n_served:,}")
    table.add_row("429, asked again", f"{counts.refused:,}")
    table.add_row("lost", f"{len(counts.lost):,}")
    for name, seconds in (("to the first token", counts.first_token), ("with the tries before", counts.waits)):
        if len(seconds) > 1:
            cuts = statistics.quantiles(seconds, n=100, method="inclusive")
            table.add_row(f"{name}, p50 and p99", f"{cuts[49]:.2f} and {cuts[98]:.2f} s")
    console = Console()
    console.print(table)
    for reason, times in Counter(counts.lost).most_common(3):
        console.print(f"lost {times} times: {reason}", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
