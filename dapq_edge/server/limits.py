"""Checks before a request is read: its key and its size."""

import ipaddress
import json
import re
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# what needs no key: it neither uses the model nor tells of its use
OPEN = re.compile(r"/|/health|/page/[^/]*")


def error_body(
    message: str, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return an error as OpenAI's API has it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Limits:
    """Middleware that answers 401 without the key, and 413 if a body has more than `max_body` bytes.

    allowed_hosts: answer 403 if a request names another host than these and this machine, as a page elsewhere does
    whose name was made to point here (DNS rebinding); None for any.
    """

    def __init__(
        self, app: ASGIApp, *, api_key: str | None, max_body: int, allowed_hosts: Sequence[str] | None
    ) -> None:
        self.app = app
        self._api_key = api_key.encode() if api_key else None
        self._max_body = max_body
        self._allowed = None if allowed_hosts is None else {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._allowed is not None and not self._is_allowed(headers.get(b"host", b"").decode("latin-1")):
            reason = "this server answers only to localhost, and to the names that it was started with"
            await _respond(send, 403, error_body(reason), [])
            return
        if self._api_key and not OPEN.fullmatch(scope["path"]) and not self._has_key(headers):
            body = error_body("a wrong API key, or none", "authentication_error", "invalid_api_key")
            await _respond(send, 401, body, [(b"www-authenticate", b"Bearer")])
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body:
            await self._refuse(send)
            return
        await self._limited(scope, receive, send)

    def _is_allowed(self, netloc: str) -> bool:
        try:
            host = urlsplit(f"//{netloc}").hostname or ""
        except ValueError:
            return False
        is_here = host == "localhost" or host.endswith(".localhost") or is_loopback(host)
        return is_here or host in (self._allowed or ())

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        return secrets.compare_digest(key.strip(), self._api_key or b"") and kind.lower() == b"bearer"

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A body without a length is counted as it comes."""
        n_bytes, is_refused = 0, False

        async def counted() -> Message:
            nonlocal n_bytes, is_refused
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_body and not is_refused:
                is_refused = True
                await self._refuse(send)
            return {"type": "http.disconnect"} if is_refused else message

        async def unless_refused(message: Message) -> None:
            if not is_refused:
                await send(message)

        await self.app(scope, counted, unless_refused)

    async def _refuse(self, send: Send) -> None:
        await _respond(send, 413, error_body(f"a request has at most {self._max_body:,} bytes"), [])


def is_loopback(host: str) -> bool:
    """Return whether it is an address that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _respond(send: Send, status: int, body: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
