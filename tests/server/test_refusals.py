"""What the server refuses, in one line, and goes on."""

import httpx
import pytest
from helpers.serving import LONG, assert_error

JSON = {"content-type": "application/json"}


# what is wrong with a body
BODIES = {
    b"{bad": "the body is no JSON: Expecting property name enclosed in double quotes at line 1 column 2",
    b'{"seed":\n }': "the body is no JSON: Expecting value at line 2 column 2",
    b"{}\nx": "the body is no JSON: Extra data at line 2 column 1",
    b'"\xff"': "the body is no JSON: 'utf-8' codec can't decode byte 0xff in position 1",
    b'{"a":' * 5000: "the body is no JSON: maximum recursion depth",
    b'{"seed": ' + b"9" * 5000 + b"}": "the body is no JSON: Exceeds the limit (4300 digits) for integer string",
    b"": "the body is empty: send a JSON object",
    b"[]": "the body is JSON, but no object",
    b"null": "the body is JSON, but no object",
}


def test_wrong_requests(server):
    for options, *words in (
        ({"kv_budget": -1}, "kv_budget"),
        ({"kv_budget": "no"}, "kv_budget"),
        ({"kv_budget": 0}, "kv_budget"),
        ({"policy": "no"}, "policy"),
        ({"policy": "h2o"}, "policy"),
        ({"temperature": -1}, "temperature"),
        ({"n": 2}, "n"),
        ({"max_tokens": -2}, "max_tokens"),
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
        ({"tools": [{"type": "function", "name": "f"}]}, "tools"),
        ({"tool_choice": {"function": {"name": "x"}}, "tools": [{"function": {"name": "y"}}]}, "x"),
    ):
        assert_error(server.chat(**options), 400, *words)
    assert_error(server.chat("a b " * 4000), 400, "exceed context window of 4096", code="context_length_exceeded")
    assert_error(server.chat(model="other"), 404, "no model", code="model_not_found")
    for body, words in BODIES.items():
        assert_error(server.client.post("/v1/chat/completions", content=body, headers=JSON), 400, words)
    half = b'{"messages":[{"role":"user","content":"\\ud800"}]}'
    for body in (b'{"messages": NaN}', half):
        assert_error(server.client.post("/v1/chat/completions", content=body, headers=JSON), 400)
    nan = b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}'
    assert_error(server.client.post("/v1/chat/completions", content=nan, headers=JSON), 400, "temperature")
    assert_error(server.client.get("/nothing"), 404)
    assert_error(server.client.get("/v1/chat/completions"), 405)
    assert_error(server.client.post("/api/document", content=b"a\0b"), 400, "binary")
    assert server.chat().status_code == 200


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"kv_budget": 5}, "kv_budget"),
        ({"policy": "no"}, "policy"),
        ({"policy": "h2o"}, "policy"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_the_wrong_parameter_is_named(server, options, param):
    """As OpenAI's API does; and no option of our command line is."""
    error = server.chat(**options).json()["error"]
    assert error["param"] == param
    assert "--" not in error["message"]


def test_a_body_of_another_kind(server):
    """As curl sends it, unless it is told what it sends."""
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
            response = server.client.post(path, content=b"{}", headers={"content-type": kind})
            assert_error(response, 400, "only with the header content-type: application/json")
            assert response.json()["error"]["param"] is None


def test_a_wrong_parameter_of_an_address(server):
    error = server.client.post("/api/document?ocr=maybe", content=b"w1").json()["error"]
    assert error["param"] == "ocr"
    assert error["message"].startswith("ocr: ")


def test_a_refused_policy_leaves_what_was_there(server):
    """Without a head profile compresskv is refused, and the next long prompt is read as before."""
    assert_error(server.chat(LONG, policy="compresskv"), 400, "dapq-edge heads calibrate")
    assert server.chat(LONG + "x").status_code == 200


SCHEMA_OF_QUOTES = {"type": "object", "properties": {'a"\n]b': {"const": "x"}}, "required": ['a"\n]b']}


FUNCTION = {"name": "f", "parameters": {"enum": []}}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        # llama.cpp would abort: nothing can follow
        ({"grammar": 'root ::= "a"', "min_tokens": 5}, "no token that can follow"),
        ({"grammar": "root ::= <[999999]>"}, "no token that can follow"),
        # or be given a null pointer: the grammar of the schema is none
        ({"response_format": {"type": "json_object", "schema": {"enum": []}}}, "cannot be read"),
        ({"response_format": {"type": "json_object", "schema": {"type": []}}}, "cannot be read"),
        ({"response_format": {"type": "json_object", "schema": SCHEMA_OF_QUOTES}}, "cannot be read"),
        ({"tools": [{"function": FUNCTION}], "tool_choice": {"function": {"name": "f"}}}, "cannot be read"),
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
        assert response.status_code == 403
        assert "localhost" in response.json()["error"]["message"]


def test_far_too_many_tools(server):
    tool = {"type": "function", "function": {"name": "f", "description": "word " * 100_000, "parameters": {}}}
    response = server.chat(tools=[tool])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
