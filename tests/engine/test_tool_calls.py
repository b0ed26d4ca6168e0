"""Marks of calls that are control tokens, what the prompt has begun, and calls of earlier turns."""

import json

import llama_cpp
import pytest
from helpers import templates
from helpers.llamas import opened
from helpers.tiny import Spec

from dapq_edge.prompt.messages import chat_tokens

TOOL = {"type": "function", "function": {"name": "get_tide", "parameters": {"type": "object", "properties": {}}}}
ASKED = {"city": "Brest"}
JSON = json.dumps(ASKED)
USER = {"role": "user", "content": "a"}


def spec(mark, template=templates.TOOLS, controls=()):
    """A model whose template has a mark in a comment."""
    return Spec(n_ctx=4096, template=f"{{#- {mark} -#}}{template}", controls=controls)


@pytest.fixture
def forced(monkeypatch):
    """A function that makes llama-cpp-python's generator yield the tokens of a text, and that of the end."""

    def force(llama, text):
        tokens = [*llama.engine.model.tokenize(text, special=True), llama.token_eos()]
        monkeypatch.setattr(llama_cpp.Llama, "generate", lambda *_, **__: (yield from tokens))

    return force


def message_of(llama, **options):
    (choice,) = llama.create_chat_completion([USER], tools=[TOOL], max_tokens=400, **options)["choices"]
    return choice["message"]


def test_marks_that_are_control_tokens(tiny_model, forced):
    """They are read, and none of the answer else."""
    with opened(tiny_model(spec("[TOOL_CALLS]", controls=("[TOOL_CALLS]", "[ARGS]", "[OTHER]")))) as llama:
        forced(llama, f"[TOOL_CALLS]get_tide[ARGS]{JSON}[OTHER]")
        (call,) = message_of(llama)["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == ASKED
        deltas = [
            chunk["choices"][0]["delta"]
            for chunk in llama.create_chat_completion([USER], tools=[TOOL], max_tokens=400, stream=True)
        ]
        (streamed,) = [call for delta in deltas for call in delta.get("tool_calls") or []]
        assert streamed["function"] == call["function"]
        forced(llama, "[TOOL_CALLS]get_tide[ARGS]{[OTHER]")
        # nothing of what it wrote is lost
        assert message_of(llama)["content"].split() == ["[TOOL_CALLS]", "get_tide[ARGS]", "{"]
        assert message_of(llama, tool_choice="none")["content"].split() == ["get_tide", "{"]


def test_a_model_that_answers_for_its_tools(tiny_model, forced):
    marks = "<start_function_call>", "<end_function_call>", "<start_function_response>"
    with opened(tiny_model(spec(marks[0], controls=marks))) as llama:
        forced(llama, f"{marks[0]}call:get_tide{{}}{marks[1]}{marks[2]}low")
        message = message_of(llama)
        assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_tide"]
        assert message["content"] is None


def test_a_prompt_that_begins_a_thought(tiny_model, forced):
    call = f'<tool_call>{{"name": "get_tide", "arguments": {JSON}}}</tool_call>'
    thinking = templates.TOOLS.replace("assistant\\n", "assistant\\n<think>\\n")
    assert thinking != templates.TOOLS
    with opened(tiny_model(spec("<tool_call>", thinking))) as llama:
        forced(llama, f"Or {call}</think>")
        assert "tool_calls" not in message_of(llama)
        forced(llama, f"Or no.</think>{call}")
        assert len(message_of(llama)["tool_calls"]) == 1


# calls of earlier turns

CALLED = [
    USER,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get_tide", "arguments": JSON}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "low"},
]


def calling(arguments):
    """A template that writes the arguments of calls in a way."""
    calls = (
        "{%- for c in m['tool_calls'] -%}" + arguments.replace("ARGS", "c['function']['arguments']") + "{%- endfor -%}"
    )
    return templates.CHATML.replace("{{ m['content'] }}", "{{ m['content'] }}" + calls)


@pytest.mark.parametrize(
    "arguments",
    [
        "{{ ARGS | tojson }}",
        "{{ ARGS if ARGS is string else ARGS | tojson }}",
        "{{ ARGS }}",
        "{{ '' + ARGS }}",
        "{{ '{\"city\": \"' }}{%- for k, v in ARGS | items -%}{{ v }}{%- endfor -%}{{ '\"}' }}",
    ],
)
def test_arguments_of_earlier_calls(tiny_model, arguments):
    """They are written as JSON, whether the template takes objects or texts."""
    with opened(tiny_model(Spec(n_ctx=4096, template=calling(arguments)))) as llama:
        model = llama.engine.model
        text = model.detokenize(chat_tokens(model, llama.render_chat, CALLED).tokens).decode()
        assert f"assistant\n{JSON}</s>" in text
