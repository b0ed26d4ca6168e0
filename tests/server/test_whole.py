"""Questions about all of the documents in a request: items as they are found, and all of them at the end."""

import asyncio
import json

import httpx
import openai
import pytest
from helpers import templates
from helpers.llamas import opened
from helpers.serving import assert_error
from helpers.tiny import Spec
from helpers.whole import windows_say

from dapq_edge.chat import asking
from dapq_edge.errors import AbortedError
from dapq_edge.reading import engine
from dapq_edge.reading.whole import WindowAnswer
from dapq_edge.server.app import create_app
from dapq_edge.server.worker import Worker

LIST, COUNT, SUMMARY = "List all ships.", "How many ships are mentioned?", "Summarize it."
TEXT = "\n\n".join(f"# Part {i}\n\n" + "The Ada, the Bee, the Cod and the Dab sail. " * 12 for i in range(1, 6))
NAMES = ["The Ada", "The Bee", "The Cod"]


class Client:
    """Requests to an application in this process, about one document."""

    def __init__(self, llama):
        self.llama = llama
        self.text = self._run(lambda client: client.post("/api/document?name=ships.md", content=TEXT))[0].json()["text"]

    def ask(self, question, **options):
        message = {"role": "user", "content": f"{self.text}\n\n{question}"}
        body = {"messages": [message], "max_tokens": 4, "temperature": 0, **options}
        return self._run(
            lambda client: client.post("/api/document?name=ships.md", content=TEXT),
            lambda client: client.post("/v1/chat/completions", json=body),
        )[1]

    def stream(self, question, **options):
        lines = self.ask(question, stream=True, **options).text.splitlines()
        assert "data: [DONE]" in lines[-2:]
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]

    def _run(self, *requests):
        """Each time with a worker of its own, as it belongs to one loop; the model stays open."""

        async def run():
            worker = Worker(self.llama, n_waiting=2, timeout=300)
            transport = httpx.ASGITransport(create_app(worker, model="tiny"))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                found = [await request(client) for request in requests]
            worker.stop()
            await asyncio.to_thread(worker._thread.shutdown)
            return found

        return asyncio.run(run())


@pytest.fixture(scope="module")
def path(tiny_model):
    return tiny_model(Spec(n_ctx=8192, template=templates.CHATML))


@pytest.fixture
def client(path, tmp_path):
    with opened(path, kv_budget=200, n_ctx=8192, store=tmp_path / "store") as llama:
        yield Client(llama)


@pytest.fixture
def said(monkeypatch):
    """What windows answer, one after the other; None is a request that is stopped."""
    monkeypatch.setattr(asking, "is_flat", lambda chunks: True)
    return windows_say(monkeypatch, AbortedError("the request was cancelled"))


def content_of(chunks):
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_a_list(client, said):
    answer = client.ask(LIST, whole="on").json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "\n".join(NAMES)}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert (answer["object"], answer["model"]) == ("chat.completion", "tiny")
    assert answer["usage"]["prompt_tokens"] > 1000
    assert answer["usage"]["completion_tokens"] == len(client.llama.tokenize(b"\n".join(map(str.encode, NAMES)), False))
    whole = answer["whole"]
    assert [part["text"] for part in whole["parts"]] == NAMES
    assert [part["windows"] for part in whole["parts"]] == [[1], [1, 3], [3]]
    assert whole["parts"][0]["pages"][0] == {"file": "ships.md", "page": "Part 1"}
    assert (whole["count"], whole["windows_read"], whole["windows_stored"]) == (3, 3, 1)
    assert (answer["evidence"]["partial"], answer["evidence"]["not_found"]) == (False, False)
    assert "Part 1" in answer["evidence"]["coverage"]


def test_a_list_comes_as_it_is_found(client, said):
    *chunks, last = client.stream(LIST)
    assert content_of(chunks) == "\n".join(NAMES)
    assert [[part["text"] for part in chunk["whole"]["parts"]] for chunk in chunks] == [NAMES[:2], NAMES[2:]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "stop"
    whole = client.ask(LIST, whole="on").json()
    assert (last["whole"], last["evidence"]) == (whole["whole"], whole["evidence"])
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1
    *_, last, usage = client.stream(LIST, stream_options={"include_usage": True})
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])


def test_a_count(client, said):
    assert client.ask(COUNT, whole="on").json()["choices"][0]["message"]["content"] == "3"
    chunks = client.stream(COUNT)
    assert content_of(chunks) == "3"
    assert [len(chunk["whole"]["parts"]) for chunk in chunks] == [2, 1, 0, 3]


@pytest.mark.parametrize("stream", [True, False])
def test_a_summary_is_written_over_the_parts(client, said, stream):
    system = {"role": "system", "content": "Be brief."}
    question = {"role": "user", "content": f"{client.text}\n\n{SUMMARY}"}
    options = {"messages": [system, question], "whole": "on"}
    results = client.stream(SUMMARY, **options) if stream else [client.ask(SUMMARY, **options).json()]
    assert [part["text"] for part in results[-1]["whole"]["parts"]] == NAMES
    assert results[-1]["choices"][0]["finish_reason"] == "length"
    assert results[-1]["timings"]["predicted_n"] == 4
    kept = "".join(text for text, _ in client.llama.kept()).replace("▁", " ")
    assert "\n".join([*NAMES, "", SUMMARY]) in kept
    assert "Be brief." in kept
    if stream:
        assert sum("role" in chunk["choices"][0]["delta"] for chunk in results) == 1
        assert len({(chunk["id"], chunk["created"]) for chunk in results}) == 1
        # the last token is not read any more
        assert kept.endswith(content_of(results).rpartition(" ")[0])


@pytest.mark.parametrize(
    ("options", "question", "is_asked"),
    [
        ({"stream": True}, LIST, True),
        ({"stream": True}, "Who sails?", False),
        ({"stream": True, "whole": "off"}, LIST, False),
        ({"stream": True, "whole": "on"}, "Who sails?", True),
        # who does not see how far it is has to want it
        ({}, LIST, False),
        ({"whole": "auto"}, LIST, True),
        ({"stream": True, "grammar": "root ::= [a-z]*"}, LIST, False),
        ({"stream": True, "response_format": {"type": "json_object"}}, LIST, False),
    ],
)
def test_when_all_is_asked(client, said, options, question, is_asked):
    text = client.ask(question, **options).text
    assert ('"whole"' in text) is is_asked
    assert ('"partial": true' in text or '"partial":true' in text) is (question == LIST and not is_asked)


def test_what_stands_out_is_answered_from_a_part(client, said, monkeypatch):
    monkeypatch.setattr(asking, "is_flat", lambda chunks: False)
    answer = client.ask(LIST, whole="auto").json()
    assert "whole" not in answer
    assert answer["evidence"]["partial"] is True


@pytest.mark.parametrize("whole", ["on", "auto"])
def test_what_fits_is_read_at_once(client, said, whole):
    messages = [{"role": "user", "content": LIST}]
    for answer in (client.ask(LIST, whole=whole, kv_budget=4000), client.ask(LIST, whole=whole, messages=messages)):
        assert answer.status_code == 200
        assert "whole" not in answer.json()


def test_what_cannot_be_is_refused(client, said):
    assert_error(client.ask(LIST, whole="all"), 400, "whole")
    assert_error(client.ask(LIST, whole="on", response_format={"type": "json_object"}), 400, "windows answer in text")
    assert_error(client.ask("", whole="on"), 400, "there is none")


def test_what_is_missing_is_said(client, said):
    said[:] = ["The Ada\nThe Dab and ...", "The Titanic", "none"]
    answer = client.ask(LIST, whole="on").json()
    assert answer["evidence"]["partial"] is True
    assert "had more to say" in answer["evidence"]["note"]
    assert (answer["whole"]["left_out"], answer["whole"]["windows_cut"]) == (1, 1)
    said[:] = ["none"]
    assert client.ask(LIST, whole="on").json()["evidence"]["not_found"] is True


def test_a_conversation_goes_on_behind_it(client, said):
    def turn(*more, **options):
        messages = [{"role": "user", "content": f"{client.text}\n\nWho sails?"}, *more]
        return client.ask("", messages=messages, **options).json()

    first = turn()
    n_cells = client.llama.usage.n_cells
    assert client.ask(LIST, whole="on").status_code == 200
    said[1] = None
    assert_error(client.ask(LIST, whole="on"), 499, "cancelled")
    assert client.llama.usage.n_cells == n_cells
    again = turn()
    assert again["choices"][0]["message"]["content"] == first["choices"][0]["message"]["content"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > again["usage"]["prompt_tokens"] - 10


def test_documents_of_all_messages_are_asked(client, monkeypatch):
    asked = []

    def answer_windows(cache, model, prompt, windows, store, control):
        asked.append(model.detokenize(prompt.tokens).decode().replace("▁", " "))
        yield WindowAnswer(range(0, 200), "The Fox", False, False, 10)

    monkeypatch.setattr(engine, "answer_windows", answer_windows)
    pasted = "The Fox and the Gnu sail. " * 100
    messages = [
        {"role": "user", "content": f"{pasted}\n\nWhat?"},
        {"role": "assistant", "content": "Ships."},
        {"role": "user", "content": LIST},
    ]
    answer = client.ask("", messages=messages, whole="on").json()
    assert answer["whole"]["parts"][0]["pages"][0]["file"] == "message 1"
    messages[1:1] = [{"role": "assistant", "content": "Ships."}, {"role": "user", "content": f"{client.text}\n\nWho?"}]
    answer = client.ask("", messages=messages, whole="on")
    assert answer.status_code == 200
    assert "message 1 The Fox" in " ".join(asked[-1].split())
    assert "ships.md # Part 1 The Ada" in " ".join(asked[-1].split())
    assert asked[-1].count(LIST) == 1
    assert "Who?" not in asked[-1]


def test_what_was_stopped_goes_on(client, monkeypatch):
    """Windows that were answered before are not asked again, by whatever request."""
    evaluated, is_stopped = [], True
    answer_windows = engine.answer_windows

    def stopped(*args):
        for answer in answer_windows(*args):
            evaluated.append(answer.n_evaluated)
            yield answer
            if is_stopped and len(evaluated) == 2:
                raise AbortedError("the request was cancelled")

    monkeypatch.setattr(engine, "answer_windows", stopped)
    assert_error(client.ask(LIST, whole="on"), 499)
    assert min(evaluated) > 0
    is_stopped, evaluated[:] = False, []
    whole = client.ask(LIST, whole="on").json()["whole"]
    assert whole["windows_read"] == whole["windows"] == len(evaluated) > 2
    assert evaluated[:2] == [0, 0] < evaluated[2:]
    assert client.stream(LIST, whole="on")[-1]["whole"]["windows_stored"] == whole["windows"]


def test_openai_client(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    messages = [{"role": "user", "content": f"{TEXT}\n\n{COUNT}"}]
    options = {"model": "tiny", "messages": messages, "extra_body": {"whole": "on"}}
    answer = client.chat.completions.create(**options)
    assert answer.choices[0].message.content.isdigit()
    assert answer.model_extra["whole"]["windows_read"] > 1
    *chunks, last = client.chat.completions.create(**options, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content
    assert last.model_extra["whole"]["parts"] == answer.model_extra["whole"]["parts"]
