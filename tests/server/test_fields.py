"""Fields of requests that front ends send, and of answers that they read."""

import json
from typing import Literal

import openai
import pydantic
import pytest
from helpers import templates
from helpers.serving import LETTERS, LONG, assert_error, metric, serving
from helpers.tiny import Spec


def tool(name, parameters):
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


# of which llama-cpp-python would make any JSON
UNTYPED = {"type": "object", "properties": {"a": {"title": "A"}}}

OPTIONS = {"model": "tiny", "max_tokens": 6, "extra_body": {"grammar": LETTERS}}


def messages(text="a b c"):
    return [{"role": "user", "content": text}]


def test_usage_of_a_stream(client):
    """The same as without a stream, in a last chunk without a choice; only if it is wanted."""
    asked = {"messages": messages("one two three"), "temperature": 0, **OPTIONS}
    whole = client.chat.completions.create(**asked)
    again = client.chat.completions.create(**asked)
    *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == again.usage
    assert last.id == chunks[-1].id
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 6
    for more in ({}, {"stream_options": {"include_usage": False}}):
        assert all(chunk.usage is None for chunk in client.chat.completions.create(**asked, stream=True, **more))
    *_, last = client.completions.create(
        prompt="x y", temperature=0, stream=True, stream_options={"include_usage": True}, **OPTIONS
    )
    assert last.usage.completion_tokens == 6


def test_cached_tokens(client):
    """All of a prompt but what is read again for its logits; none of one that is new."""
    first = client.chat.completions.create(messages=messages("new words here"), **OPTIONS).usage
    assert first.prompt_tokens_details.cached_tokens < first.prompt_tokens // 2
    second = client.chat.completions.create(messages=messages("new words here"), **OPTIONS).usage
    assert first.prompt_tokens - 1 <= second.prompt_tokens_details.cached_tokens <= first.prompt_tokens


@pytest.mark.parametrize("stream", [True, False])
def test_timings(server, stream):
    """As llama-server has them: they add up to the tokens of the context."""
    response = server.chat(stream=stream)
    if stream:
        answer = json.loads(response.text.split("data: ")[-2])
        n_tokens = server.chat().json()["usage"]["total_tokens"]
    else:
        answer = response.json()
        n_tokens = answer["usage"]["total_tokens"]
    timings = answer["timings"]
    assert timings["cache_n"] + timings["prompt_n"] + timings["predicted_n"] == n_tokens
    assert 0 < timings["predicted_n"] <= 8
    for name in ("prompt", "predicted"):
        seconds, n = timings[f"{name}_ms"] / 1000, timings[f"{name}_n"]
        assert seconds > 0
        assert timings[f"{name}_per_second"] == pytest.approx(n / seconds, rel=0.01)
        assert timings[f"{name}_per_token_ms"] == pytest.approx(seconds * 1000 / n if n else 0, rel=0.01, abs=0.001)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": -1},
        {"top_k": 10**12},
        {"max_tokens": 10**12, "grammar": 'root ::= "abc"'},
        {"max_tokens": 1, "max_completion_tokens": 10**12, "grammar": 'root ::= "abc"'},
        {"min_tokens": 0, "seed": -1},
        {"seed": 2**70},
        {"stop": ""},
        {"stop": [""]},
        {"stop": ["", "\n"]},
        {"logprobs": False},
        {"stream_options": {"include_usage": True}},
        {"n": 1},
        {"n": None, "logprobs": None},
        {"tool_choice": "required"},
        {"tool_choice": "required", "tools": []},
        {"service_tier": "auto", "store": False, "metadata": {}, "parallel_tool_calls": True, "user": "x"},
    ],
)
def test_what_clients_send(server, options):
    answer = server.chat(**options)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["choices"][0]["message"]["content"]) >= 3


def test_an_empty_stop_beside_another_one(server):
    """That one still stops."""
    whole = server.chat(max_tokens=40, temperature=0).json()["choices"][0]["message"]["content"].strip()
    stopped = server.chat(max_tokens=40, temperature=0, stop=["", whole[4]]).json()["choices"][0]
    assert stopped["finish_reason"] == "stop"
    assert stopped["message"]["content"].strip() == whole[: whole.index(whole[4])]


@pytest.mark.parametrize(
    ("options", "param", "reason"),
    [
        ({"n": 2}, "n", "one answer to a request"),
        ({"logprobs": True}, "logprobs", "not kept"),
        ({"logprobs": True, "top_logprobs": 5}, "logprobs", "not kept"),
        ({"response_format": {"type": "json_object", "schema": UNTYPED}}, "response_format", "needs a type"),
        ({"max_tokens": -2}, "max_tokens", "greater than or equal to -1"),
    ],
)
def test_what_is_refused_with_a_reason(server, options, param, reason):
    response = server.chat(**options)
    assert_error(response, 400, reason)
    assert response.json()["error"]["param"] == param


def test_completions_refuse_the_same(server):
    for options, reason in (({"n": 2}, "one answer"), ({"best_of": 2}, "one answer"), ({"logprobs": 0}, "not kept")):
        assert_error(server.client.post("/v1/completions", json={"prompt": "a", **options}), 400, reason)


# no answer ends before its limit
ENDLESS = "root ::= [a-z]{100}"


def test_a_limit_of_answers(tiny_model):
    """Of those that say none, or -1; another one goes beyond it. An answer that is cut says so."""
    with serving(tiny_model(Spec(n_ctx=4096)), "-c", "4096", "-n", "20") as server:
        for limit, n_tokens in ((None, 20), (-1, 20), (0, 20), (10, 10), (30, 30)):
            answer = server.chat(max_tokens=limit, grammar=ENDLESS).json()
            assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (n_tokens, "length")
        body = {"prompt": "a b", "max_tokens": -1, "grammar": ENDLESS}
        assert server.client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 20
        assert server.client.get("/props").json()["default_generation_settings"]["params"]["n_predict"] == 20


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_of_half_characters_count(server, stream):
    """A model that is random writes them; llama-cpp-python would go on to the end of the context."""
    for text in ("x", "y z", "Why?", "w1 w2"):
        response = server.chat(text, grammar=None, max_tokens=9, stream=stream, temperature=1.5)
        answer = json.loads(response.text.split("data: ")[-2]) if stream else response.json()
        assert answer["timings"]["predicted_n"] <= 9
        assert (answer["choices"][0]["finish_reason"] == "length") == (answer["timings"]["predicted_n"] == 9)


# any token is as likely as another
HOT = {"temperature": 100.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def test_seeds(server):
    """Answers are others each time, unless there is a seed; a seed of another request changes nothing."""
    # the grammar of letters leaves few answers
    hot = {"max_tokens": 24, "grammar": None} | HOT

    def text(**options):
        return server.chat(**hot, **options).json()["choices"][0]["message"]["content"]

    assert text(seed=1) == text(seed=1) != text(seed=2)
    after = []
    for _ in range(3):
        text(seed=1)
        after.append(text())
    assert len(set(after)) == 3


def test_answers_differ_after_every_start(tiny_model):
    answers = set()
    for _ in range(2):
        with serving(tiny_model(Spec(n_ctx=4096))) as server:
            answer = server.chat(max_tokens=24, grammar=None, **HOT).json()
            answers.add(answer["choices"][0]["message"]["content"])
    assert len(answers) == 2


class Boat(pydantic.BaseModel):
    """What an answer is read as."""

    class Size(pydantic.BaseModel):
        """A part of it."""

        length: int

    kind: Literal["ferry", "tug"]
    size: Size


def test_a_class_as_the_format_of_an_answer(client):
    """The package of OpenAI makes the schema and reads the answer."""
    for _ in range(3):
        answer = client.chat.completions.parse(
            model="tiny", messages=messages(), max_tokens=300, response_format=Boat, temperature=1
        )
        assert answer.choices[0].message.parsed.kind in ("ferry", "tug")


ONE = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}
TOOLS = [tool("get_tide", ONE), tool("get_wind", {"type": "object", "properties": {}})]


@pytest.mark.parametrize("n_tools", [1, 2])
@pytest.mark.parametrize("template", ["CHATML", "TOOLS"])
def test_a_tool_must_be_called(tiny_model, n_tools, template):
    """Whether the template writes the tools or drops them; in a stream, too."""
    with serving(tiny_model(Spec(n_ctx=4096, template=getattr(templates, template)))) as server:
        options = {"tools": TOOLS[:n_tools], "tool_choice": "required", "grammar": None, "max_tokens": 400}
        choice = server.chat(**options).json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] in ["get_tide", "get_wind"][:n_tools]
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            stream = client.chat.completions.stream(
                model="tiny", messages=messages(), tools=TOOLS[:n_tools], tool_choice="required", max_tokens=400
            )
            with stream as events:
                final = events.get_final_completion().choices[0]
        assert final.finish_reason == "tool_calls"
        assert json.loads(final.message.tool_calls[0].function.arguments) is not None


def test_a_tool_whose_arguments_have_no_grammar(server):
    """It is called with any object."""
    odd = tool("get_tide", {"type": "object", "properties": {"city": {"title": "City"}}})
    answer = server.chat(tools=[odd, TOOLS[1]], tool_choice="required", grammar=None, max_tokens=400, seed=1).json()
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] in ("get_tide", "get_wind")


@pytest.mark.parametrize(("stop", "reason"), [(None, "length"), (['"'], "stop")])
def test_a_call_that_is_cut_stays_text(server, stop, reason):
    options = {"tools": TOOLS, "tool_choice": "required", "grammar": None, "max_tokens": 5, "stop": stop}
    choice = server.chat(**options).json()["choices"][0]
    assert choice["finish_reason"] == reason
    assert choice["message"]["content"].strip().startswith("{")
    chunks = [json.loads(line) for line in server.chat(**options, stream=True).text.split("data: ")[1:-1]]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks).strip().startswith("{")
    assert chunks[-1]["choices"][0]["finish_reason"] == reason


def test_a_developer_is_the_system(tiny_model):
    """Unless the template knows the role; it may write the name of any."""
    texts = []
    knowing = "{# developer #}" + templates.CHATML
    for template in (templates.CHATML, knowing):
        with serving(tiny_model(Spec(n_ctx=4096, template=template)), "--kv-budget", "200") as server:
            server.chat(messages=[{"role": "developer", "content": "t0"}, {"role": "user", "content": "t1"}])
            pieces = server.client.get("/api/kept").json()["pieces"]
            texts.append("".join(text for text, _ in pieces).replace("<s> ", "<s>"))
    assert "<s>system\nt0</s>" in texts[0]
    assert "<s>developer\nt0</s>" in texts[1]


def test_prompts_that_are_read_again_are_counted(server):
    """For another question about what was evicted, or because the end of it differs."""
    # no test has asked about this text before
    text = LONG.replace("abc", "jkl")
    assert server.chat(text + "one").status_code == 200
    before = metric(server, "dapq_rereads_total")
    assert server.chat(text + "two").status_code == 200
    assert metric(server, "dapq_rereads_total") == before + 1


def test_metrics_of_llama_server(server):
    """Under its names, by the tokens of an answer's timings."""
    names = "prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total"
    before = [metric(server, f"llamacpp:{name}") for name in names]
    seconds = metric(server, "llamacpp:prompt_seconds_total")
    timings = server.chat("p q r").json()["timings"]
    after = [metric(server, f"llamacpp:{name}") for name in names]
    grown = [new - old for new, old in zip(after, before, strict=True)]
    assert grown == [timings[name] for name in ("prompt_n", "cache_n", "predicted_n")]
    assert metric(server, "llamacpp:prompt_seconds_total") > seconds
    assert metric(server, "llamacpp:tokens_predicted_seconds_total") > 0
    assert metric(server, "llamacpp:predicted_tokens_seconds") == pytest.approx(timings["predicted_per_second"])
    assert metric(server, "llamacpp:prompt_tokens_seconds") > 0
    assert metric(server, "llamacpp:requests_processing") == 0
    assert metric(server, "llamacpp:requests_deferred") == 0
    assert metric(server, "llamacpp:n_tokens_max") >= server.usage()["n_tokens"]
