"""The endpoints."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from email.message import EmailMessage
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._version import __version__
from ..chat.library import Library
from ..documents.document import Document as TextDocument
from ..documents.read import Reading, read_upload
from ..errors import DapqError, UsageError
from .answering import answer, one_result
from .limits import Limits
from .llama_server import add_llama_server
from .metrics import Metrics
from .responses import ERRORS, STREAM, NoModelError, add_error_handlers
from .schemas import ChatRequest, CompletionRequest
from .tasks import ahead_work, chat_task, completion_task, count_task, kept_task
from .worker import Worker

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


def create_app(
    worker: Worker,
    *,
    model: str,
    library: Library | None = None,
    any_model: bool = False,
    api_key: str | None = None,
    max_body: int = 2**25,
    allowed_hosts: Sequence[str] | None = None,
    cors: Sequence[str] = (),
    n_predict: int = -1,
) -> FastAPI:
    """The application.

    Args:
        worker: Has the model.
        model: Its name for clients.
        library: Has the documents that are uploaded; None for one of this process.
        any_model: Answer those that name another one, too.
        api_key: What clients must send.
        max_body: Bytes of a request at most.
        allowed_hosts: Names of this machine beside localhost; None for any.
        cors: Origins of pages elsewhere that may use the server.
        n_predict: Tokens of an answer, if a request says none; -1 for as many as there is room for.
    """
    app = FastAPI(title="dapq-edge", version=__version__, description=__doc__, docs_url=None, redoc_url=None)
    app.add_middleware(Limits, api_key=api_key, max_body=max_body, allowed_hosts=allowed_hosts)
    app.add_middleware(_Count, metrics=worker.metrics)
    if cors:
        # the last one that is added sees a request first: a browser asks without the key
        app.add_middleware(CORSMiddleware, allow_origins=list(cors), allow_methods=["*"], allow_headers=["*"])
    add_error_handlers(app)
    library = library or Library()
    _add_openai(app, worker, library, model, any_model=any_model, n_predict=n_predict)
    add_llama_server(app, worker, model, n_predict)
    _add_status(app, worker)
    _add_page(app, worker, library)
    return app


def _add_openai(app: FastAPI, worker: Worker, library: Library, model: str, *, any_model: bool, n_predict: int) -> None:
    def check(wanted: str | None) -> None:
        if wanted not in (None, model) and not any_model:
            raise NoModelError(
                404, f"no model {wanted!r}: there is {model}, as the server was not started for any model"
            )

    entry = {"id": model, "object": "model", "created": 0, "owned_by": "dapq-edge"}

    # clients are given the address with /v1 or without it
    @app.get("/models", include_in_schema=False)
    @app.get("/v1/models", responses=ERRORS)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [entry]}

    @app.get("/models/{name:path}", include_in_schema=False)
    @app.get("/v1/models/{name:path}", responses=ERRORS)
    async def one_model(name: str) -> dict[str, Any]:
        check(name)
        return entry

    @app.post("/completions", include_in_schema=False, response_model=None)
    @app.post("/v1/completions", responses=STREAM | ERRORS, response_model=None)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        check(body.model)
        return await answer(worker, request, completion_task(body, model, n_predict), body.stream)

    @app.post("/chat/completions", include_in_schema=False, response_model=None)
    @app.post("/v1/chat/completions", responses=STREAM | ERRORS, response_model=None)
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        check(body.model)
        return await answer(worker, request, chat_task(body, model, library, n_predict), body.stream)


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
        documents = {"reading_document": worker.reading_document, "unread_documents": worker.unread}
        return asdict(worker.usage) | {"reading_done": done, "reading_total": total} | documents

    @app.get("/api/kept", responses=ERRORS)
    async def kept(request: Request) -> Kept:
        return Kept(pieces=await one_result(worker, request, kept_task))

    parsing = asyncio.Semaphore(1)
    body = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post("/api/document", responses=ERRORS, openapi_extra={"requestBody": body})
    async def document(request: Request, name: str = "document", password: str = "", ocr: bool = False) -> Document:
        """A file of any kind; `name` is its name. It is read while nobody asks."""
        data, charset = await request.body(), _charset(request)
        # one file at a time takes memory
        async with parsing:
            found = await asyncio.to_thread(_read, data, name, charset, Reading(password, ocr))
        n_tokens = await one_result(worker, request, count_task(found.text))
        # one at a time, and no request waits for the disk
        async with parsing:
            await asyncio.to_thread(library.add, found)
        worker.when_idle(ahead_work(name, found.text, n_tokens, worker.say))
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
