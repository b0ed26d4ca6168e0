"""Requests made from the server's own OpenAPI schema, and by chance: nothing fails the server, and it goes on."""

import numpy as np
import pytest
import schemathesis
from helpers.serving import serving
from helpers.tiny import Spec
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

SETTINGS = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
    # each try is a request
    phases=[Phase.generate],
)


@pytest.fixture(scope="module")
def server(tiny_model):
    # an answer has no end before the context has
    with serving(tiny_model(Spec(n_ctx=256)), "--kv-budget", "100", "--timeout", "120") as running:
        yield running


def cases(operation):
    """Requests that the schema allows, and others."""
    modes = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
    first, second = (operation.as_strategy(generation_mode=mode) for mode in modes)
    return first | second


@pytest.mark.slow
def test_no_request_fails_the_server(server):
    schema, tried = schemathesis.openapi.from_url(f"{server.url}/openapi.json"), set()

    def call(case):
        response = case.call()
        assert response.status_code < 500, (case.body, response.status_code, response.text)
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert server.process.poll() is None
        tried.add((case.path, response.status_code))

    for result in schema.get_all_operations():
        SETTINGS(given(case=cases(result.ok()))(call))()
    # all endpoints, and not only with what they refuse
    assert {path for path, _ in tried} == set(server.client.get("/openapi.json").json()["paths"])
    accepted = {path for path, status in tried if status == 200}
    assert accepted >= {"/v1/chat/completions", "/v1/completions"}


def test_random_bytes(server):
    rng = np.random.default_rng(1)
    start = b'{"messages":[{"role":"user","content":"x"}],"max_tokens":2}'
    for _ in range(200):
        body = bytearray(start)
        for _ in range(int(rng.integers(1, 6))):
            body[int(rng.integers(len(body)))] = int(rng.integers(256))
        for path in ("/v1/chat/completions", "/v1/completions", "/api/document"):
            headers = {"content-type": "application/json"}
            response = server.client.post(path, content=bytes(body), headers=headers)
            assert response.status_code in (200, 400, 404), (path, bytes(body), response.text)
    assert server.client.get("/health").status_code == 200


@pytest.mark.parametrize("kv_budget", [100, 10**9])
def test_an_answer_that_fills_the_context_within_a_character(server, kv_budget):
    """It ends there; llama-cpp-python counts its tokens only between characters."""
    for prompt in ("x", "xx", "xxx"):
        # it cannot end before
        body = {"prompt": prompt, "max_tokens": 400, "grammar": 'root ::= "\u20ac"{100}', "kv_budget": kv_budget}
        answer = server.client.post("/v1/completions", json=body).json()
        assert 240 < answer["usage"]["total_tokens"] <= 257
        assert answer["choices"][0]["text"].count("\u20ac") == answer["usage"]["completion_tokens"] // 3


def test_null_means_the_default(server):
    names = "presence_penalty", "frequency_penalty", "temperature", "top_p", "n", "max_tokens", "stop", "seed"
    body = {"prompt": "a b", "grammar": "root ::= [a-z]{100}", **dict.fromkeys(names)}
    assert server.client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 16
