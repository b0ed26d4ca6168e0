"""Responses to what goes wrong, and their description for OpenAPI."""

from json import JSONDecodeError
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


# what FastAPI says of any other body that it cannot read
UNREAD = "There was an error parsing the body"


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
        reason, param = _no_object(error), ""
        if reason is None:
            reason, param = _first_fault(error)
        return JSONResponse(error_body(f"{param}: {reason}" if param else reason, param=param or None), 400)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        if error.detail == UNREAD:
            # in bytes that are no UTF-8, a number of thousands of digits, or far too deep
            return JSONResponse(error_body(f"the body is no JSON: {error.__cause__}"), 400)
        code = "model_not_found" if isinstance(error, NoModelError) else None
        kind = "not_supported_error" if isinstance(error, NotSupportedError) else "invalid_request_error"
        return JSONResponse(error_body(str(error.detail), kind, code), error.status_code, headers=error.headers)


def _no_object(error: RequestValidationError) -> str | None:
    """Return why a body is no JSON object, None if it is one."""
    first, body = error.errors()[0], error.body
    if first["type"] == "json_invalid":
        at = JSONDecodeError(first["ctx"]["error"], body, first["loc"][1])
        return f"the body is no JSON: {at.msg} at line {at.lineno} column {at.colno}"
    if first["loc"] != ("body",) or isinstance(body, dict):
        return None
    if first["type"] == "missing":
        return "the body is empty: send a JSON object"
    if isinstance(body, bytes):
        return "the body is taken for JSON only with the header content-type: application/json"
    return "the body is JSON, but no object"


def _first_fault(error: RequestValidationError) -> tuple[str, str]:
    """Return what is wrong with a parameter, and its name; no name if it is about all of them."""
    first = error.errors()[0]
    where, *names = first["loc"]
    param = ".".join(map(str, names if where in ("body", "query", "path") else first["loc"]))
    return first["msg"].removeprefix("Value error, "), param.encode("utf-8", "replace").decode()
