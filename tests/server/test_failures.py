"""Whose fault an exception is: the request's, or ours."""

import jinja2
import pytest
from fastapi.testclient import TestClient
from helpers.llamas import opened
from helpers.tiny import Spec

from dapq_edge.errors import DapqError, TooLongError, UsageError
from dapq_edge.server.app import create_app
from dapq_edge.server.failures import INVALID, describe
from dapq_edge.server.worker import Worker


def raised(kind, *packages):
    """An error of `kind` that the last of the packages raises, which the others call."""
    source = "def call(*rest):\n    if not rest: raise kind('x')\n    rest[0](*rest[1:])"
    calls = []
    for package in packages:
        space = {"__name__": f"{package}.module", "kind": kind}
        exec(source, space)
        calls.append(space["call"])
    try:
        calls[0](*calls[1:])
    except kind as error:
        return error


@pytest.mark.parametrize("kind", [kind for kind in INVALID if kind is not jinja2.TemplateError])
def test_only_what_llama_cpp_python_raises_is_of_the_request(kind):
    assert describe(raised(kind, "dapq_edge", "llama_cpp"))[0] == 400
    assert describe(raised(kind, "dapq_edge", "llama_cpp", "numpy"))[0] == 400
    # which may call us back
    assert describe(raised(kind, "dapq_edge", "llama_cpp", "dapq_edge"))[0] == 500
    assert describe(raised(kind, "dapq_edge", "llama_cpp", "dapq_edge", "numpy"))[0] == 500
    assert describe(raised(kind, "dapq_edge"))[0] == 500


def test_what_a_template_raises_is_of_the_request():
    with pytest.raises(jinja2.UndefinedError) as caught:
        jinja2.Template("{{ a.b.c }}").render()
    assert describe(caught.value)[0] == 400


@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (UsageError("5: too few", param="kv_budget"), 400, "kv_budget"),
        (TooLongError("too long"), 400, None),
        (DapqError("no memory"), 500, None),
        (ZeroDivisionError(), 500, None),
    ],
)
def test_our_errors_have_a_status(error, status, param):
    found, body = describe(error)
    assert (found, body["error"]["param"]) == (status, param)


@pytest.mark.parametrize("kind", [KeyError, AttributeError, AssertionError])
def test_a_mistake_of_ours_is_a_failure_of_the_server(tiny_model, monkeypatch, kind):
    """With one line for the client, and the rest in the log."""
    with opened(tiny_model(Spec(n_ctx=1024)), n_ctx=1024) as llama:
        worker = Worker(llama, n_waiting=2, timeout=60)

        def wrong(*_):
            raise kind("a secret of ours")

        monkeypatch.setattr(type(llama.engine), "prefill", wrong)
        client = TestClient(create_app(worker, model="tiny"), raise_server_exceptions=False)
        body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 500
        assert response.json()["error"]["message"] == "the server failed, see its log"
        worker.close()
