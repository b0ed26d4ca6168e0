"""The process of a server: options, a port that is taken, and its end."""

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from helpers.cli import dapq_edge
from helpers.serving import LETTERS, assert_error, serving
from helpers.tiny import Spec

from dapq_edge.server.app import create_app
from dapq_edge.server.metrics import Metrics
from dapq_edge.server.worker import StoppedError


@pytest.mark.slow
def test_key_size_and_time(tiny_model):
    # an answer of so many tokens takes longer than the timeout on any machine
    n_ctx = 2**16
    options = "--max-body", "0.05", "--timeout", "2", "-c", str(n_ctx), "--kv-budget", "200"
    with serving(tiny_model(Spec(n_ctx=n_ctx)), *options, key="sécret") as server:
        assert server.chat().status_code == 200
        for path in ("/v1/models", "/metrics", "/api/usage", "/api/kept"):
            assert server.client.get(path).status_code == 200
            for wrong in ("", "Bearer", "Bearer x", "Bearer sécre", "sécret", "Basic sécret"):
                response = server.client.get(path, headers={"authorization": wrong.encode()})
                assert_error(response, 401, code="invalid_api_key")
        for path in ("/", "/health"):
            assert server.client.get(path, headers={"authorization": ""}).status_code == 200
        assert_error(server.chat("x" * 60000), 413)
        chunks = (b"x" * 10000 for _ in range(10))
        assert_error(server.client.post("/v1/completions", content=chunks), 413)
        body = {"prompt": "a b", "max_tokens": 60_000, "temperature": 0, "grammar": LETTERS}
        assert_error(server.client.post("/v1/completions", json=body), 504, "more than 2 s")
        with server.client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
            lines = [line for line in response.iter_lines() if line]
        assert response.status_code == 200
        assert lines[-1] == "data: [DONE]"
        assert "more than 2 s" in json.loads(lines[-2].removeprefix("data: "))["error"]["message"]
        assert server.chat().status_code == 200


def test_sigterm_ends_a_stream_with_an_error(tiny_model):
    with serving(tiny_model(Spec(n_ctx=4096)), "-c", "4096") as server:
        body = {"prompt": "a b", "max_tokens": 4000, "temperature": 0, "grammar": LETTERS, "stream": True}
        with server.client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            with ThreadPoolExecutor(1) as pool:
                code = pool.submit(server.stop)
                rest = [line for line in lines if line]
        assert code.result() in (0, 143, -15)
        assert "stopping" in json.loads(rest[-2].removeprefix("data: "))["error"]["message"]
        assert server.log().count("\n") == 1


def test_a_model_that_stops_late_ends_its_stream_with_an_error(monkeypatch):
    from sse_starlette.sse import AppStatus

    class LateWorker:
        metrics = Metrics()

        async def results(self, task):
            yield {"choices": [{"text": "a", "finish_reason": None}]}
            await asyncio.sleep(0.5)
            raise StoppedError("the server is stopping")

    async def lines():
        transport = httpx.ASGITransport(create_app(LateWorker(), model="tiny"))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            response = await client.post("/v1/completions", json={"prompt": "a", "stream": True})
        return [line for line in response.text.splitlines() if line]

    monkeypatch.setattr(AppStatus, "should_exit", True)
    _, error, done = asyncio.run(lines())
    assert "stopping" in json.loads(error.removeprefix("data: "))["error"]["message"]
    assert done == "data: [DONE]"


def test_port_in_use_and_other_usage(tiny_model):
    def serve(*options):
        result = dapq_edge("serve", "-m", tiny_model(Spec(n_ctx=4096)), *options)
        error = result.stderr.decode()
        assert error.count("\n") == 1 or "usage" in error, error
        return result.returncode, error

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert serve("--port", port) == (1, f"dapq-edge: cannot listen on 127.0.0.1:{port}: Address already in use\n")
    assert serve("--host", "999.1.1.1")[0] == 1
    assert serve("--port", "99999")[0] == 2
    assert serve("--kv-budget", "-3")[0] == 2
    assert serve("--timeout", "0")[0] == 2


@pytest.mark.parametrize("error", [None, StoppedError("the server is stopping")])
def test_a_stream_says_how_far_it_has_read(monkeypatch, error):
    """So that no client times out; what goes wrong then comes in the stream."""
    monkeypatch.setattr("dapq_edge.server.answering.PATIENCE", 0.05)

    class SlowWorker:
        metrics = Metrics()
        reading = 3000, 32_000

        async def results(self, task):
            await asyncio.sleep(0.3)
            if error:
                raise error
            yield {"choices": [{"text": "a", "finish_reason": None}]}

    async def lines():
        transport = httpx.ASGITransport(create_app(SlowWorker(), model="tiny"))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            response = await client.post("/v1/completions", json={"prompt": "a", "stream": True})
        assert response.status_code == 200
        return [line for line in response.text.splitlines() if line]

    *comments, last, done = asyncio.run(lines())
    assert 2 <= len(comments) <= 6
    assert set(comments) == {": reading 3,000 of 32,000 tokens"}
    assert ("stopping" in last) == (error is not None)
    assert done == "data: [DONE]"


def test_a_stream_says_how_far_it_has_read_between_two_chunks(monkeypatch):
    monkeypatch.setattr("dapq_edge.server.answering.PATIENCE", 0.05)

    class SlowWorker:
        metrics = Metrics()
        reading = 3000, 32_000

        async def results(self, task):
            yield {"choices": [{"text": "a", "finish_reason": None}]}
            await asyncio.sleep(0.3)
            yield {"choices": [{"text": "b", "finish_reason": None}]}

    async def lines():
        transport = httpx.ASGITransport(create_app(SlowWorker(), model="tiny"))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            response = await client.post("/v1/completions", json={"prompt": "a", "stream": True})
        return [line for line in response.text.splitlines() if line]

    first, *comments, last, done = asyncio.run(lines())
    assert '"a"' in first
    assert 2 <= len(comments) <= 6
    assert set(comments) == {": reading 3,000 of 32,000 tokens"}
    assert '"b"' in last
    assert done == "data: [DONE]"


def test_a_client_that_leaves_while_it_is_read_for_stops_the_reading(monkeypatch):
    monkeypatch.setattr("dapq_edge.server.answering.PATIENCE", 0.05)
    ended = []

    class SlowWorker:
        metrics = Metrics()
        reading = 0, 0

        async def results(self, task):
            try:
                await asyncio.sleep(30)
                yield None
            finally:
                ended.append(True)

    async def leave():
        app = create_app(SlowWorker(), model="tiny")
        body = json.dumps({"prompt": "a", "stream": True}).encode()
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
        scope |= {"path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b"", "root_path": ""}
        scope |= {"headers": [(b"host", b"localhost"), (b"content-type", b"application/json")]}
        scope |= {"client": ("127.0.0.1", 1), "server": ("localhost", 80)}
        asked, seen = [{"type": "http.request", "body": body, "more_body": False}], asyncio.Event()

        async def receive():
            if asked:
                return asked.pop()
            await seen.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if b"waiting" in message.get("body", b""):
                seen.set()

        await asyncio.wait_for(app(scope, receive, send), 10)

    asyncio.run(leave())
    assert ended == [True]
