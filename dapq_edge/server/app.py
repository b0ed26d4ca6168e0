"""The endpoints."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from dataclasses import asdict
from email.message import EmailMessage
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from sse_starlette.sse import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._version import __version__
from ..chat.library import Library
from ..documents.document import Document as TextDocument
from ..documents.read import Reading, read_upload
from ..errors import AbortedError, DapqError, UsageError
from .failures import INVALID, describe
from .limits import Limits, error_body
from .metrics import Metrics
from .schemas import ChatRequest, CompletionRequest
from .tasks import ahead_work, chat_task, completion_task, count_task, kept_task
from .worker import Task, Worker

T = TypeVar("T")

# seconds between two looks whether a client is still there
POLL = 0.2

# seconds that running requests get to end when the server stops
GRACE = 5

# seconds until a stream begins without its first token, and between two lines of progress
PATIENCE = 1.0

# the page loads its own files only, talks to nobody else, and makes no HTML of a text
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # files of two versions do not fit each other
    "cache-control": "no-cache",
}
PAGE_TYPES = {".css": "text/css", ".js": "text/javascript", ".html": "text/html"}


class Error(BaseModel):
    """`message` in one line; `type`, `param` and `code` as OpenAI's API has them."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is no success."""

    error: Error


class Kept(BaseModel):
    """Pieces of the text in the cache, and the share of heads that keep each: 0 to 1."""

    pieces: list[tuple[str, float]]


class Page(BaseModel):
    """A part of a document that a citation names: characters of its text."""

    label: str
    start: int
    stop: int


class Document(BaseModel):
    """The text of a document, its parts, what was not read of it, and how many tokens it has."""

    text: str
    pages: list[Page]
    notes: list[str]
    n_tokens: int


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request is wrong.",
        401: "The API key is wrong.",
        403: "The request names another host.",
        404: "There is no such model.",
        413: "The body is too large.",
        429: "Too many requests wait.",
        499: "The client is gone.",
        500: "llama.cpp failed.",
        503: "The server is stopping.",
        504: "It took too long.",
    }.items()
}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}, "application/json": {}}}}


class _NoModelError(HTTPException):
    """A request names another model."""


def create_app(
    worker: Worker, *, model: str, api_key: str | None = None, max_body: int = 2**25, is_local: bool = False
) -> FastAPI:
    """The application.

    model: its name for clients. max_body: bytes of a request. is_local: refuse what is sent to another host's name.
    """
    app = FastAPI(title="dapq-edge", version=__version__, description=__doc__, docs_url=None, redoc_url=None)
    app.add_middleware(Limits, api_key=api_key, max_body=max_body, is_local=is_local)
    app.add_middleware(_Count, metrics=worker.metrics)
    _add_error_handlers(app)
    library = Library()
    _add_openai(app, worker, model, library)
    _add_status(app, worker)
    _add_page(app, worker, library)
    return app


def _add_openai(app: FastAPI, worker: Worker, model: str, library: Library) -> None:
    def check(wanted: str | None) -> None:
        if wanted not in (None, model):
            raise _NoModelError(404, f"no model {wanted!r}: there is {model}")

    @app.get("/v1/models", responses=ERRORS)
    async def models() -> dict[str, Any]:
        entry = {"id": model, "object": "model", "created": 0, "owned_by": "dapq-edge"}
        return {"object": "list", "data": [entry]}

    @app.post("/v1/completions", responses=STREAM | ERRORS, response_model=None)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        check(body.model)
        return await _answer(worker, request, completion_task(body, model), body.stream)

    @app.post("/v1/chat/completions", responses=STREAM | ERRORS, response_model=None)
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        check(body.model)
        return await _answer(worker, request, chat_task(body, model, library), body.stream)


def _add_status(app: FastAPI, worker: Worker) -> None:
    @app.get("/health", responses=ERRORS)
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", responses=ERRORS, response_class=Response)
    async def metrics() -> Response:
        return Response(worker.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI, worker: Worker, library: Library) -> None:
    page = {file.name: file.read_text("utf-8") for file in files("dapq_edge.server").joinpath("page").iterdir()}

    @app.get("/", response_class=HTMLResponse)
    async def index() -> HTMLResponse:
        return HTMLResponse(page["index.html"], headers=PAGE_HEADERS)

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in page:
            raise HTTPException(404, f"the page has no file {name!r}")
        return Response(page[name], headers=PAGE_HEADERS, media_type=PAGE_TYPES[Path(name).suffix])

    @app.get("/api/usage", responses=ERRORS)
    async def usage() -> dict[str, Any]:
        done, total = worker.reading
        return asdict(worker.usage) | {"reading_done": done, "reading_total": total}

    @app.get("/api/kept", responses=ERRORS)
    async def kept(request: Request) -> Kept:
        return Kept(pieces=await _one(worker, request, kept_task))

    parsing = asyncio.Semaphore(1)
    body = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post("/api/document", responses=ERRORS, openapi_extra={"requestBody": body})
    async def document(request: Request, name: str = "document", password: str = "", ocr: bool = False) -> Document:
        """A file of any kind; `name` is its name. It is read while nobody asks."""
        data, charset = await request.body(), _charset(request)
        # one file at a time takes memory
        async with parsing:
            found = await asyncio.to_thread(_read, data, name, charset, Reading(password, ocr))
        n_tokens = await _one(worker, request, count_task(found.text))
        library.add(found)
        worker.when_idle(ahead_work(found.text, n_tokens, worker.say))
        pages = [Page(label=page.label, start=page.start, stop=page.stop) for page in found.pages]
        return Document(text=found.text, pages=pages, notes=list(found.notes), n_tokens=n_tokens)


def _read(data: bytes, name: str, charset: str, reading: Reading) -> TextDocument:
    try:
        return read_upload(data, name, charset, reading)
    except DapqError as error:
        raise UsageError(error.args[0], param=error.param) from error


def _charset(request: Request) -> str:
    """Return the charset that a client says its text has."""
    header = EmailMessage()
    header["content-type"] = request.headers.get("content-type", "")
    return str(header.get_content_charset() or "")


async def _answer(worker: Worker, request: Request, task: Task, is_stream: bool) -> Response:
    start = time.monotonic()
    if not is_stream:
        result = await _one(worker, request, task)
        worker.metrics.tokens.inc(result["usage"]["completion_tokens"])
        return JSONResponse(result)
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
    async with contextlib.aclosing(results):
        try:
            # comments, so that no client times out while a long document is read
            while not (await asyncio.wait({first}, timeout=PATIENCE))[0]:
                yield {"comment": _progress(worker)}
            chunk = first.result()
            worker.metrics.first_token.observe(time.monotonic() - start)
            while chunk is not None:
                worker.metrics.tokens.inc(_is_token(chunk))
                yield {"data": json.dumps(chunk)}
                chunk = await anext(results, None)
        except Exception as error:
            yield {"data": json.dumps(describe(error)[1])}
        finally:
            await _cancel(first)
        yield {"data": "[DONE]"}


def _progress(worker: Worker) -> str:
    done, total = worker.reading
    return f"reading {done:,} of {total:,} tokens" if total > 1 else "waiting"


async def _cancel(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    # what it iterates over can only be closed after it
    await asyncio.wait({task})


def _is_token(chunk: dict[str, Any]) -> bool:
    """Not the first chunk of a chat, which names the role, nor the last one, which says why it ends."""
    choice = chunk["choices"][0]
    return choice["finish_reason"] is None and "role" not in choice.get("delta", {})


async def _one(worker: Worker, request: Request, task: Task) -> Any:
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


def _add_error_handlers(app: FastAPI) -> None:
    async def failed(_: Request, error: Exception) -> JSONResponse:
        status, body = describe(error)
        return JSONResponse(body, status, headers={"retry-after": "1"} if status == 429 else None)

    for kind in (DapqError, *INVALID, RuntimeError, MemoryError, OSError, Exception):
        app.add_exception_handler(kind, failed)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part != "body").encode("utf-8", "replace").decode()
        reason = first["msg"].removeprefix("Value error, ")
        return JSONResponse(error_body(f"{param}: {reason}" if param else reason, param=param or None), 400)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        code = "model_not_found" if isinstance(error, _NoModelError) else None
        return JSONResponse(error_body(str(error.detail), code=code), error.status_code, headers=error.headers)


class _Count:
    """Middleware that counts requests."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                path = route.path if route else "other"
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)
