"""Responses to what goes wrong, and their description for OpenAPI."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ..errors import DapqError
from .failures import INVALID, describe
from .limits import error_body


class Error(BaseModel):
    """`message` in one line; `type`, `param` and `code` as OpenAI's API has them."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is no success."""

    error: Error


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
        501: "The server cannot do this.",
        503: "The server is stopping.",
        504: "It took too long.",
    }.items()
}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}, "application/json": {}}}}


class NoModelError(HTTPException):
    """A request names another model."""


class NotSupportedError(HTTPException):
    """A request is for what this server cannot do."""


def add_error_handlers(app: FastAPI) -> None:
    """Answer whatever is raised with an error of OpenAI's API."""

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
        code = "model_not_found" if isinstance(error, NoModelError) else None
        kind = "not_supported_error" if isinstance(error, NotSupportedError) else "invalid_request_error"
        return JSONResponse(error_body(str(error.detail), kind, code), error.status_code, headers=error.headers)
