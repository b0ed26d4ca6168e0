"""The OpenAI-compatible server: what it answers and counts."""

import openai
import pytest
from helpers.serving import LETTERS, LONG, metric


def test_openai_client(server):
    """Answers, streams and models as the package of OpenAI expects them."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    messages = [{"role": "user", "content": "a b c d"}]
    options = {
        "model": "tiny",
        "messages": messages,
        "max_tokens": 12,
        "temperature": 0,
        "extra_body": {"grammar": LETTERS},
    }
    answer = client.chat.completions.create(**options)
    assert answer.usage.completion_tokens == 12
    assert answer.choices[0].finish_reason == "length"
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
    assert usage["n_tokens"] > 1300
    # the generation prompt and the answer are behind what is kept
    assert usage["n_cells_used"] <= 200 + 16 + 7
    assert usage["n_cells"] == 768
    assert metric(server, "dapq_kv_cells_used") == usage["n_cells_used"]
    assert metric(server, "dapq_evictions_total") > before
    pieces = server.client.get("/api/kept").json()["pieces"]
    assert "abc" in "".join(text for text, _ in pieces)
    assert sum(share < 1 for _, share in pieces) > 0
    assert server.chat(LONG, kv_budget="10%", policy="dapq").status_code == 200
    assert server.usage()["n_cells_used"] <= 410 + 16 + 7
    assert server.chat(LONG, kv_budget=64).status_code == 200
    assert server.usage()["n_cells_used"] <= 64 + 16 + 7


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


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_are_counted(server, stream):
    before = metric(server, "dapq_tokens_generated_total")
    assert server.chat(max_tokens=10, stream=stream).status_code == 200
    body = {"prompt": "a b", "max_tokens": 7, "grammar": LETTERS, "stream": stream}
    assert server.client.post("/v1/completions", json=body).status_code == 200
    assert metric(server, "dapq_tokens_generated_total") == before + 17


def test_documents_and_page(server):
    page = server.client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    answer = server.client.post("/api/document?name=a.html", content=b"<html><p>a <b>b</b></p></html>").json()
    assert answer["text"].split() == ["a", "b"]
    assert answer["n_tokens"] > 1
