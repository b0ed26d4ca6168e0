"""Requests as Open WebUI 0.12.4 makes them for one chat about a document: its turns, and those for a title and tags."""

import json

import pytest
from helpers import templates
from helpers.serving import LONG, serving
from helpers.tiny import Spec

# shortened in the middle; the context is the text that was found in the document
RAG = """### Task:
Respond to the user query using the provided context, incorporating inline citations in the format [id] **only when \
the <source> tag includes an explicit id attribute** (e.g., <source id="1">).

### Output:
Provide a clear and direct response to the user's query, including inline citations in the format [id] only when the \
<source> tag with id attribute is present in the context.

<context>
<source id="1" name="notes.txt">{context}</source>
</context>
"""

TITLE = """### Task:
Generate a concise title summarizing the chat history.
### Guidelines:
- Your entire response must consist solely of the JSON object, without any introductory or concluding text.
### Output:
JSON format: {{ "title": "your concise title here" }}
### Chat History:
<chat_history>
{history}
</chat_history>"""

TAGS = TITLE.replace("concise title summarizing", "list of 1-3 broad tags categorizing the main themes of")


@pytest.fixture(scope="module")
def server(tiny_model):
    with serving(tiny_model(Spec(n_ctx=8192, template=templates.CHATML)), "--kv-budget", "200") as running:
        yield running


def turn(server, messages):
    """The answer of a stream, and what it took."""
    body = {"stream": True, "model": "tiny", "messages": messages, "stream_options": {"include_usage": True}}
    # the model is random, so that its answer is bounded
    response = server.client.post("/chat/completions", json=body | {"max_tokens": 8})
    assert response.status_code == 200, response.text
    chunks = [
        json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line.startswith("data: {")
    ]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return text, chunks[-1]["usage"]


def task(server, template, messages):
    """A request for a title or for tags."""
    history = "\n".join(f"{message['role'].upper()}: {message['content']}" for message in messages[-2:])
    content = template.format(history=history)
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "stream": False, "max_tokens": 8}
    response = server.client.post("/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] is not None


def test_a_chat_about_a_document(server):
    """A title and tags between two turns do not have the document read again."""
    assert server.client.get("/models").json()["data"][0]["id"] == "tiny"
    asked = [{"role": "user", "content": RAG.format(context=LONG) + "\nWhat is it about?"}]
    text, usage = turn(server, asked)
    assert usage["prompt_tokens"] > 1500
    chat = [*asked, {"role": "assistant", "content": text}]
    for template in (TITLE, TAGS):
        # of the chat as its user sees it
        task(server, template, [{"role": "user", "content": "What is it about?"}, chat[-1]])
    _, after = turn(server, [*chat, {"role": "user", "content": "Thanks!"}])
    assert after["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] - 64
