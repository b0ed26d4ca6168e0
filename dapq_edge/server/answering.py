"""Answers of the worker as responses: whole, or as a stream of events; a client that leaves ends its task."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Any, TypeVar

import anyio
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from sse_starlette.sse import EventSourceResponse

from ..errors import AbortedError
from .failures import describe
from .worker import Task, Worker

T = TypeVar("T")

# seconds between two looks whether a client is still there
POLL = 0.2

# seconds that running requests get to end when the server stops
GRACE = 5

# seconds until a stream begins without its first token, and between two lines of progress
PATIENCE = 1.0


async def answer(worker: Worker, request: Request, task: Task, is_stream: bool) -> Response:
    """Return the response to a request whose task makes one result, or the chunks of a stream."""
    start = time.monotonic()
    if not is_stream:
        return JSONResponse(await one_result(worker, request, task))
    results = worker.results(task)
    first = asyncio.ensure_future(anext(results, None))
    try:
        await _while_connected(request, asyncio.wait({first}, timeout=PATIENCE))
        if first.done():
            # what goes wrong soon has a status of its own
            first.result()
    except BaseException:
        await _cancel(first)
        raise
    # without the grace, its task is cancelled before the model has stopped, and the client is not told
    return EventSourceResponse(_events(worker, first, results, start), sep="\n", shutdown_grace_period=GRACE)


async def _events(
    worker: Worker, first: "asyncio.Future[Any]", results: AsyncGenerator[Any, None], start: float
) -> AsyncIterator[dict[str, str]]:
    chunk = first
    async with contextlib.aclosing(results):
        try:
            while True:
                # comments, so that no client times out while a long document is read
                while not (await asyncio.wait({chunk}, timeout=PATIENCE))[0]:
                    yield {"comment": _progress(worker)}
                made = chunk.result()
                if chunk is first:
                    worker.metrics.first_token.observe(time.monotonic() - start)
                if made is None:
                    break
                yield {"data": json.dumps(made)}
                chunk = asyncio.ensure_future(anext(results, None))
        except Exception as error:
            yield {"data": json.dumps(describe(error)[1])}
        finally:
            await _cancel(chunk)
        yield {"data": "[DONE]"}


def _progress(worker: Worker) -> str:
    done, total = worker.reading
    return f"reading {done:,} of {total:,} tokens" if total > 1 else "waiting"


async def _cancel(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    # what it iterates over can only be closed after it, also when the one who waits is cancelled again and again
    with anyio.CancelScope(shield=True):
        await asyncio.wait({task})


async def one_result(worker: Worker, request: Request, task: Task) -> Any:
    """Return the only result of a task."""
    async with contextlib.aclosing(worker.results(task)) as results:
        result = await _while_connected(request, anext(results))
        # the worker counts cells when the task has ended
        await anext(results, None)
        return result


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """Return what `work` gives; it is cancelled when the client is gone."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=POLL))[0]:
            if await request.is_disconnected():
                raise AbortedError("the client is gone")
        return task.result()
    finally:
        await _cancel(task)
