"""The OpenAI-compatible server: answers, limits, and an end in good order."""

import json
import socket
import threading
import time
from contextlib import suppress

import httpx
import openai
import pytest
from helpers.cli import dapq_edge
from helpers.serving import LETTERS, serving
from helpers.tiny import Spec

SPEC = Spec(n_ctx=4096)
JSON = {"content-type": "application/json"}
LONG = "abc def ghi. " * 100


@pytest.fixture(scope="module")
def server(tiny_model):
    with serving(tiny_model(SPEC), "--kv-budget", "200", "-c", "4096", "--queue", "3") as running:
        yield running


def assert_error(response, status, *words, code=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == code
    assert all(word in error["message"] for word in words) and "\n" not in error["message"], error


def metric(server, name):
    line = next(line for line in server.client.get("/metrics").text.splitlines() if line.startswith(name + " "))
    return float(line.split()[-1])


def test_openai_client(server):
    """Answers, streams and models as the package of OpenAI expects them."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    messages = [{"role": "user", "content": "a b c d"}]
    options = dict(model="tiny", messages=messages, max_tokens=12, temperature=0, extra_body={"grammar": LETTERS})
    answer = client.chat.completions.create(**options)
    assert answer.usage.completion_tokens == 12 and answer.choices[0].finish_reason == "length"
    stream = client.chat.completions.create(**options, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer.choices[0].message.content
    text = (
        client.completions.create(
            model="tiny", prompt="a b c", max_tokens=5, temperature=0, extra_body={"grammar": LETTERS}
        )
        .choices[0]
        .text
    )
    stream = client.completions.create(
        model="tiny", prompt="a b c", max_tokens=5, temperature=0, extra_body={"grammar": LETTERS}, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == text
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.chat.completions.create(**options | {"model": "gpt"})


def test_a_long_prompt_is_evicted(server):
    """To the server's budget or to that of the request; a prompt that goes on is not read again."""
    before = metric(server, "dapq_evictions_total")
    assert server.chat(LONG).status_code == 200
    usage = server.client.get("/api/usage").json()
    assert usage["n_tokens"] > 1300 and usage["n_cells_used"] <= 207 and usage["n_cells"] == 768
    assert (
        metric(server, "dapq_kv_cells_used") == usage["n_cells_used"]
        and metric(server, "dapq_evictions_total") > before
    )
    pieces = server.client.get("/api/kept").json()["pieces"]
    assert "abc" in "".join(text for text, _ in pieces) and sum(share < 1 for _, share in pieces) > 0
    assert server.chat(LONG, kv_budget="10%", policy="dapq").status_code == 200
    assert server.client.get("/api/usage").json()["n_cells_used"] <= 417
    assert server.chat(LONG, kv_budget=64).status_code == 200
    assert server.client.get("/api/usage").json()["n_cells_used"] <= 71


def test_wrong_requests(server):
    for options, *words in (
        ({"kv_budget": -1}, "--kv-budget"),
        ({"kv_budget": "no"}, "--kv-budget"),
        ({"kv_budget": 0}, "--kv-budget"),
        ({"policy": "no"}, "--policy"),
        ({"policy": "h2o"}, "--policy"),
        ({"temperature": -1}, "temperature"),
        ({"n": 2}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "content"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"grammar": "root ::= root"}, "grammar"),
        ({"grammar": "(" * 1000}, "grammar"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"logprobs": True, "top_logprobs": 1}, "logprobs"),
        ({"tools": [{}]}, "tools"),
        ({"tool_choice": {"function": {"name": "x"}}, "tools": [{"function": {"name": "y"}}]}, "x"),
    ):
        assert_error(server.chat(**options), 400, *words)
    assert_error(server.chat("a b " * 4000), 400, "exceed context window of 4096", code="context_length_exceeded")
    assert_error(server.chat(model="other"), 404, "no model", code="model_not_found")
    half = b'{"messages":[{"role":"user","content":"\\ud800"}]}'
    for body in (b"{", b"", b"[]", b"\xff", b'{"messages": NaN}', b'{"a":' * 5000, half):
        assert_error(server.client.post("/v1/chat/completions", content=body, headers=JSON), 400)
    nan = b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}'
    assert_error(server.client.post("/v1/chat/completions", content=nan, headers=JSON), 400, "temperature")
    assert_error(server.client.get("/nothing"), 404)
    assert_error(server.client.get("/v1/chat/completions"), 405)
    assert_error(server.client.post("/api/document", content=b"a\0b"), 400, "binary")
    assert server.chat().status_code == 200


def test_json_and_tools(server):
    answer = server.chat(response_format={"type": "json_object"}, grammar=None, max_tokens=200, temperature=0).json()
    text = answer["choices"][0]["message"]["content"].strip()
    assert text.startswith("{")
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    text = server.chat(response_format=wanted, grammar=None, max_tokens=100).json()["choices"][0]["message"]["content"]
    assert text.replace(" ", "").startswith('{"a":')
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    choice = {"type": "function", "function": {"name": "f"}}
    message = server.chat(tools=tools, grammar=None, tool_choice=choice, max_tokens=50).json()["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["name"] == "f"


def test_the_queue_has_a_bound(server):
    """What is beyond it is told to come again; nothing that was accepted is lost."""
    statuses, lock = [], threading.Lock()

    def ask():
        response = httpx.post(
            f"{server.url}/v1/completions",
            json={"prompt": "a b", "max_tokens": 600, "temperature": 0, "grammar": LETTERS},
            timeout=300,
        )
        with lock:
            statuses.append(response.status_code)
        if response.status_code == 429:
            assert response.headers["retry-after"] == "1"
            assert_error(response, 429, "wait")

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(200) + statuses.count(429) == 10 and 4 <= statuses.count(200) < 10
    assert metric(server, "dapq_queue_waiting") == 0


SCHEMA_OF_QUOTES = {"type": "object", "properties": {'a"\n]b': {"const": "x"}}, "required": ['a"\n]b']}
FUNCTION = {"name": "f", "parameters": {"enum": []}}


@pytest.mark.parametrize(
    "options, word",
    [
        # llama.cpp would abort: nothing can follow
        ({"grammar": 'root ::= "a"', "min_tokens": 5}, "no token can follow"),
        ({"grammar": "root ::= <[999999]>"}, "no token can follow"),
        # or be given a null pointer: the grammar of the schema is none
        ({"response_format": {"type": "json_object", "schema": {"enum": []}}}, "cannot read"),
        ({"response_format": {"type": "json_object", "schema": {"type": []}}}, "cannot read"),
        ({"response_format": {"type": "json_object", "schema": SCHEMA_OF_QUOTES}}, "cannot read"),
        ({"tools": [{"function": FUNCTION}], "tool_choice": {"function": {"name": "f"}}}, "cannot read"),
        # or take all memory
        ({"response_format": {"type": "json_object", "schema": {"minLength": 10**9}}}, "1,000 times"),
        ({"response_format": {"type": "json_object", "schema": {"pattern": "^a{1000000000}$"}}}, "1,000 times"),
        ({"response_format": {"type": "json_schema", "json_schema": [1]}}, "no object"),
    ],
)
def test_what_would_end_the_process(server, options, word):
    assert_error(server.chat(**{"grammar": None} | options), 400, word)
    assert server.chat().status_code == 200


def test_far_too_long_prompts_are_refused_before_they_are_tokenized(server):
    """llama.cpp would take minutes for 2 MB."""
    with httpx.Client(base_url=server.url, timeout=300) as client:
        for body in ({"prompt": "x" * 2**21}, {"prompt": "x", "suffix": "x" * 2**21}):
            response = client.post("/v1/completions", json=body)
            assert_error(response, 400, "exceed context window of 4096", code="context_length_exceeded")
        n_tokens = client.post("/api/document", content=b"x" * 2**21).json()["n_tokens"]
    assert n_tokens == pytest.approx(2**21, rel=0.001)


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_are_counted(server, stream):
    before = metric(server, "dapq_tokens_generated_total")
    assert server.chat(max_tokens=10, stream=stream).status_code == 200
    body = {"prompt": "a b", "max_tokens": 7, "grammar": LETTERS, "stream": stream}
    assert server.client.post("/v1/completions", json=body).status_code == 200
    assert metric(server, "dapq_tokens_generated_total") == before + 17


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_answer(server, stream):
    """Running or waiting: the answer ends before its 4,000 tokens, without a trace in the log."""
    body = {"prompt": "a b", "max_tokens": 4000, "temperature": 0, "stream": stream, "grammar": LETTERS}

    def leave(timeout):
        url = f"{server.url}/v1/completions"
        with suppress(httpx.ReadTimeout), httpx.stream("POST", url, json=body, timeout=timeout):
            time.sleep(0.3)

    threads = [threading.Thread(target=leave, args=(timeout,)) for timeout in (0.8, 0.4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # this one waits for what still runs; nothing is there if the last answer ended before its first token
    assert server.client.get("/api/kept").status_code in (200, 400)
    assert server.client.get("/api/usage").json()["n_tokens"] < 3000
    assert metric(server, "dapq_queue_waiting") == 0
    assert "Traceback" not in server.log()
    assert server.chat().status_code == 200


def test_two_clients_at_once(server):
    """Each gets the answer to its own prompt, though they share the one sequence."""
    prompts = [f"{word} {LONG}" for word in ("one", "two")]
    expected = [
        server.client.post("/v1/completions", json={"prompt": p, "temperature": 0, "grammar": LETTERS}).json()
        for p in prompts
    ]
    expected = [answer["choices"][0]["text"] for answer in expected]
    answers = {}

    def ask(i):
        for _ in range(3):
            body = {"prompt": prompts[i], "temperature": 0, "grammar": LETTERS}
            answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=300).json()
            answers.setdefault(i, set()).add(answer["choices"][0]["text"])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {0: {expected[0]}, 1: {expected[1]}}


def test_documents_and_page(server):
    page = server.client.get("/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    answer = server.client.post("/api/document?name=a.html", content=b"<html><p>a <b>b</b></p></html>").json()
    assert answer["text"].split() == ["a", "b"] and answer["n_tokens"] > 1


def test_key_size_and_time(tiny_model):
    options = "--max-body", "0.05", "--timeout", "2", "-c", "4096"
    with serving(tiny_model(SPEC), *options, key="sécret") as server:
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
        body = {"prompt": "a b", "max_tokens": 4000, "temperature": 0, "grammar": LETTERS}
        assert_error(server.client.post("/v1/completions", json=body), 504, "more than 2 s")
        with server.client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
            lines = [line for line in response.iter_lines() if line]
        assert response.status_code == 200 and lines[-1] == "data: [DONE]"
        assert "more than 2 s" in json.loads(lines[-2].removeprefix("data: "))["error"]["message"]
        assert server.chat().status_code == 200


def test_sigterm_ends_a_stream_with_an_error(tiny_model):
    with serving(tiny_model(SPEC), "-c", "4096") as server:
        body = {"prompt": "a b", "max_tokens": 4000, "temperature": 0, "grammar": LETTERS, "stream": True}
        with server.client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            result = []
            stopper = threading.Thread(target=lambda: result.append(server.stop()))
            stopper.start()
            rest = [line for line in lines if line]
        stopper.join()
        assert result[0] in (0, 143, -15)
        assert "stopping" in json.loads(rest[-2].removeprefix("data: "))["error"]["message"]
        assert server.log().count("\n") == 1


def test_port_in_use_and_other_usage(tiny_model):
    def serve(*options):
        result = dapq_edge("serve", "-m", tiny_model(SPEC), *options)
        error = result.stderr.decode()
        assert error.count("\n") == 1 or "usage" in error, error
        return result.returncode, error

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert serve("--port", port) == (1, f"dapq-edge: cannot listen on 127.0.0.1:{port}: Address already in use\n")
    assert serve("--host", "999.1.1.1")[0] == 1
    assert serve("--port", "99999")[0] == 1
    assert serve("--kv-budget", "-3")[0] == 2
    assert serve("--timeout", "0")[0] == 2


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "a.localhost", "127.0.0.1", "127.9.0.1:1", "[::1]:8080"])
def test_names_of_this_machine(server, host):
    assert server.client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "10.0.0.1", "localhost.evil.example", "", "[", "[::2]"]
)
def test_names_of_other_machines(server, host):
    """A page whose name was made to point here."""
    for path in ("/", "/health", "/v1/models"):
        response = server.client.get(path, headers={"host": host})
        assert response.status_code == 403 and "localhost" in response.json()["error"]["message"]


def test_far_too_many_tools(server):
    tool = {"type": "function", "function": {"name": "f", "description": "word " * 100_000, "parameters": {}}}
    response = server.chat(tools=[tool])
    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
