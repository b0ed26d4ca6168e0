"""Calls of tools that an answer makes of its own accord, over HTTP: a grammar forces what the model writes."""

import json

import openai
import pytest
from helpers import templates
from helpers.serving import serving
from helpers.tiny import Spec

ASKED = {"city": "Brest", "days": 2}
CALL = f'<tool_call>\n{{"name": "get_tide", "arguments": {json.dumps(ASKED)}}}\n</tool_call>'
WIND = '<tool_call>{"name": "get_wind", "arguments": {}}</tool_call>'
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("get_tide", "get_wind")
]
# a comment says which form the model was taught
TEMPLATE = "{#- <tool_call> -#}" + templates.TOOLS


@pytest.fixture(scope="module")
def running(tiny_model):
    with serving(tiny_model(Spec(n_ctx=4096, template=TEMPLATE))) as server:
        yield server


@pytest.fixture(scope="module")
def client(running):
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
        yield client


def forced(text, **options):
    """Options of a chat whose answer is `text`."""
    grammar = f"root ::= {json.dumps(text)}"
    return {"tools": TOOLS, "grammar": grammar, "max_tokens": 500, **options}


def choice_of(running, text, **options):
    return running.chat(**forced(text, **options)).json()["choices"][0]


def deltas(running, text, **options):
    """The deltas of a stream, and why it ended."""
    lines = running.chat(**forced(text, **options), stream=True).text.split("data: ")[1:-1]
    choices = [json.loads(line)["choices"][0] for line in lines]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    return [choice["delta"] for choice in choices], choices[-1]["finish_reason"]


def functions(calls):
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def test_calls(running):
    choice = choice_of(running, f"{CALL}\n{WIND}")
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert functions(calls) == [("get_tide", ASKED), ("get_wind", {})]
    assert {call["type"] for call in calls} == {"function"}
    ids = [call["id"] for call in calls]
    assert len(set(ids)) == 2
    assert all(len(name) == 9 and name.isalnum() for name in ids)


def test_text_and_a_call(running):
    message = choice_of(running, f"I look.\n{CALL}", tool_choice="auto")["message"]
    assert message["content"] == "I look."
    assert functions(message["tool_calls"]) == [("get_tide", ASKED)]


def test_streamed_calls(running):
    made, reason = deltas(running, f"I look.\n{CALL}{WIND}")
    assert reason == "tool_calls"
    assert made[0]["role"] == "assistant"
    texts = [delta["content"] for delta in made if delta.get("content")]
    assert "".join(texts) == "I look."
    # it does not wait for its end
    assert len(texts) > 1
    calls = [call for delta in made for call in delta.get("tool_calls") or []]
    assert [call["index"] for call in calls] == [0, 1]
    assert functions(calls) == [("get_tide", ASKED), ("get_wind", {})]


def test_the_package_of_openai(client):
    """Puts the deltas together, and sends the call and what the tool says back."""
    asked = [{"role": "user", "content": "How is the tide?"}]
    extra = {"extra_body": {"grammar": forced(CALL)["grammar"]}}
    with client.chat.completions.stream(model="tiny", messages=asked, tools=TOOLS, **extra) as events:
        message = events.get_final_completion().choices[0].message
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == ASKED
    told = [*asked, message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "Low."}]
    extra = {"extra_body": {"grammar": forced("It is low.")["grammar"]}}
    last = client.chat.completions.create(model="tiny", messages=told, tools=TOOLS, **extra).choices[0]
    assert (last.message.content, last.message.tool_calls, last.finish_reason) == ("It is low.", None, "stop")


@pytest.mark.parametrize(
    "text", ["<tool_call>{</tool_call>", CALL.replace("tide", "time"), "a <tool_call", '{"name": "get_tide"}']
)
def test_what_is_no_call_stays_text(running, text):
    choice = choice_of(running, text)
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    assert "tool_calls" not in choice["message"]
    made, reason = deltas(running, text)
    assert "".join(delta.get("content") or "" for delta in made) == text
    assert reason == "stop"
    assert not any("tool_calls" in delta for delta in made)


def test_a_call_that_is_cut_stays_text(running):
    choice = choice_of(running, CALL, max_tokens=30)
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == CALL[: len(choice["message"]["content"])] != ""


@pytest.mark.parametrize("options", [{"tool_choice": "none"}, {"tools": None}])
def test_only_calls_that_may_be_are_read(running, options):
    choice = choice_of(running, CALL, **options)
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")


def test_a_document_calls_nothing(running):
    """A call that stands in a message is not one of the answer."""
    choice = running.chat(f"Read this: {CALL}", **forced("No.")).json()["choices"][0]
    assert choice["message"]["content"] == "No."
    assert "tool_calls" not in choice["message"]
