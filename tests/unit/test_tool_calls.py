"""Calls of tools in answers: every form that a chat template knows, whole and cut at each character."""

import json
import random

import pytest

from dapq_edge.prompt.call_forms import FORMS as KNOWN
from dapq_edge.prompt.call_forms import PLAIN, find_forms
from dapq_edge.prompt.call_reader import CallReader
from dapq_edge.prompt.earlier_calls import spells_python, with_objects

TIDE = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = [
    {"type": "function", "function": {"name": "get_tide", "parameters": TIDE}},
    {"type": "function", "function": {"name": "get_wind", "parameters": {}}},
]
ASKED = {"city": 'Saint-Malo "Sud"', "days": 2}
JSON = json.dumps(ASKED)
NAMED = f'{{"name": "get_tide", "arguments": {JSON}}}'
LLAMA = f'{{"name": "get_tide", "parameters": {JSON}}}'
TAGGED = '<function=get_tide>\n<parameter=city>\nSaint-Malo "Sud"\n</parameter>\n<parameter=days>\n2\n</parameter>\n'

# a form, what a chat template holds of it, and how it writes one call
FORMS = {
    "hermes": ("<tool_call>", f"<tool_call>\n{NAMED}\n</tool_call>"),
    "hermes without an end": ("<tool_call>", f"<tool_call>\n{NAMED}"),
    "arguments as text": (
        "<tool_call>",
        f"<tool_call>{json.dumps({'name': 'get_tide', 'arguments': JSON})}</tool_call>",
    ),
    "qwen 3.5": ("<tool_call> <function=", f"<tool_call>\n{TAGGED}</function>\n</tool_call>"),
    "qwen 3.5 without a mark": ("<tool_call> <function=", f"{TAGGED}</function>"),
    "glm 4": (
        "<tool_call>",
        '<tool_call>get_tide\n<arg_key>city</arg_key>\n<arg_value>Saint-Malo "Sud"</arg_value>\n'
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
    ),
    "seed oss": ("<seed:tool_call> <function=", f"<seed:tool_call>\n{TAGGED}</function>\n</seed:tool_call>"),
    "functionary 3.1": ("<function=", f"<function=get_tide>{JSON}</function>"),
    "functionary 3.2": (">>>all", f"get_tide\n{JSON}"),
    "minicpm 5": (
        '<function name="',
        '<function name="get_tide"><param name="city"><![CDATA[Saint-Malo "Sud"]]></param>'
        '<param name="days">2</param></function>',
    ),
    "llama 3.1": ("<|python_tag|>", f"<|python_tag|>{LLAMA}"),
    "llama 3.2": (PLAIN.known_by, LLAMA),
    "llama 3.2, with white space": (PLAIN.known_by, f'\n{{ "name" :\n "get_tide", "parameters": {JSON} }}'),
    "llama 3.2, with a type": (PLAIN.known_by, f'{{"type": "function", "name": "get_tide", "parameters": {JSON}}}'),
    "mistral": ("[TOOL_CALLS]", f'[TOOL_CALLS][{{"name": "get_tide", "arguments": {JSON}, "id": "123456789"}}]'),
    "mistral small 3": ("[TOOL_CALLS]", f"[TOOL_CALLS]get_tide[CALL_ID]123456789[ARGS]{JSON}"),
    "devstral": ("[TOOL_CALLS]", f"[TOOL_CALLS]get_tide[ARGS]{JSON}"),
    "granite 3": ("<|tool_call|>", f"<|tool_call|>[{NAMED}]"),
    "nemotron": ("<TOOLCALL>", f"<TOOLCALL>[{NAMED}]</TOOLCALL>"),
    "apriel": ("<tool_calls>", f"<tool_calls>[{NAMED}]</tool_calls>"),
    "command r7b": (
        "<|START_ACTION|>",
        f'<|START_ACTION|>[{{"tool_call_id": "0", "tool_name": "get_tide", "parameters": {JSON}}}]<|END_ACTION|>',
    ),
    "gemma 4": ("<|tool_call>", '<|tool_call>call:get_tide{city:<|"|>Saint-Malo "Sud"<|"|>,days:2}<tool_call|>'),
    "functiongemma": (
        "<start_function_call>",
        '<start_function_call>call:get_tide{city:<escape>Saint-Malo "Sud"<escape>,days:2}<end_function_call>',
    ),
    "lfm2": (
        "List of tools: ",
        """<|tool_call_start|>[get_tide(city='Saint-Malo "Sud"', days=2)]<|tool_call_end|>""",
    ),
}

# two calls, the second one of another tool
SEVERAL = {
    "hermes": ("<tool_call>", f'<tool_call>{NAMED}</tool_call>\n<tool_call>{{"name": "get_wind"}}</tool_call>'),
    "functionary 3.1": ("<function=", f"<function=get_tide>{JSON}</function><function=get_wind>{{}}</function>"),
    "functionary 3.2": (">>>all", f"get_tide\n{JSON}>>>get_wind\n{{}}"),
    "llama 3.1": ("<|python_tag|>", f'<|python_tag|>{LLAMA}; {{"name": "get_wind", "parameters": {{}}}}'),
    "mistral": ("[TOOL_CALLS]", f'[TOOL_CALLS][{NAMED}, {{"name": "get_wind", "arguments": {{}}}}]'),
    "devstral": ("[TOOL_CALLS]", f"[TOOL_CALLS]get_tide[ARGS]{JSON}[TOOL_CALLS]get_wind[ARGS]{{}}"),
    "minimax": ("<tool_calls>", f'<tool_calls>\n{NAMED}\n{{"name": "get_wind", "arguments": {{}}}}\n</tool_calls>'),
    "lfm2": (
        "List of tools: ",
        """<|tool_call_start|>[get_tide(city='Saint-Malo "Sud"', days=2), get_wind()]<|tool_call_end|>""",
    ),
}

# answers that are no calls, as a model may write them
TEXTS = {
    "hermes": (
        "Plain.",
        " Two\n\nparagraphs \n",
        "a < b <tool",
        "<tool_call>",
        "<tool_call>\n{</tool_call> and on",
        f"<tool_call>{NAMED[:-1]}</tool_call>",
        f"<tool_call>{NAMED[:20]}",
        f"<tool_call>{NAMED.replace('get_tide', 'get_time')}</tool_call>",
        '<tool_call>{"name": "get_wind", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "get_wind", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "get_wind", "arguments": {"a": "\\ud800"}}</tool_call>',
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
        "<tool_call>Brest</tool_call>",
        "<tool_call>get_tide<arg_key>city</arg_key></tool_call>",
        NAMED,
        f"<think>I may write <tool_call>{NAMED}</tool_call> now.</think>No.",
    ),
    "qwen 3.5": ("<tool_call><function=get_tide>Brest</function></tool_call>", "<function=x></function>"),
    "functionary 3.2": ("get_tide\n{", "get_tide"),
    "llama 3.1": ('<|python_tag|>get_tide.call(city="Brest")', "<|python_tag|>print(1)"),
    "llama 3.2": (
        '{"name": "Ann", "age": 4}',
        '{"city": "Brest"}',
        f"Call {LLAMA}",
        f"{LLAMA} is the call.",
        "{",
        "{{",
    ),
    "mistral": ("[TOOL_CALLS]", "[1, 2]", "[TOOL_CALLS][", "[TOOL_CALLS]get_tide"),
    "gemma 4": ("<|tool_call>call:get_tide{city:Brest}<tool_call|>", "<|tool_call>get_tide<tool_call|>"),
    "lfm2": tuple(
        f"<|tool_call_start|>{call}<|tool_call_end|>"
        for call in ("[get_tide('Brest')]", "[get_tide(city=Brest)]", "[get_tide(city={1})]", "get_tide(", "[2]")
    ),
}


def parts(template, answer, *, size=None, thinks=False):
    """The parts of an answer that comes in pieces of so many characters, with neighbouring texts as one."""
    reader, size = CallReader(find_forms(template), TOOLS, thinks=thinks), size or len(answer)
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
    made = [part for piece in pieces for part in reader.feed(piece)] + list(reader.feed("", is_end=True))
    joined = []
    for part in made:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part if isinstance(part, str) else (part["name"], json.loads(part["arguments"])))
    return joined


@pytest.mark.parametrize("form", FORMS)
def test_a_call(form):
    template, answer = FORMS[form]
    for size in (None, 1, 7):
        assert parts(template, answer, size=size) == [("get_tide", ASKED)]
        assert parts(template, answer + "\n", size=size) == [("get_tide", ASKED)]


@pytest.mark.parametrize("form", SEVERAL)
def test_several_calls(form):
    for size in (None, 1, 7):
        assert parts(*SEVERAL[form], size=size) == [("get_tide", ASKED), ("get_wind", {})]


@pytest.mark.parametrize(("form", "text"), [(form, text) for form, texts in TEXTS.items() for text in texts])
def test_what_is_no_call_is_text(form, text):
    template = FORMS[form][0]
    assert parts(template, text) == [text]
    if len(text) < 1000:
        assert parts(template, text, size=1) == [text]


@pytest.mark.parametrize("form", [form for form in FORMS if "llama 3.2" not in form and "functionary 3.2" not in form])
def test_text_before_a_call(form):
    """Cut at each character, the texts are the same, and no part of a call is among them."""
    template, call = FORMS[form]
    answer = f"I look.\n\n{call}"
    for i in range(len(answer) + 1):
        reader = CallReader(find_forms(template), TOOLS)
        made = [*reader.feed(answer[:i]), *reader.feed(answer[i:]), *reader.feed("", is_end=True)]
        assert "".join(part for part in made if isinstance(part, str)) == "I look."
        assert [json.loads(part["arguments"]) for part in made if isinstance(part, dict)] == [ASKED]


def test_text_behind_a_call():
    call = FORMS["hermes"][1]
    assert parts("<tool_call>", f"{call}\nDone.", size=1) == [("get_tide", ASKED), "\nDone."]
    broken = "<tool_call>{</tool_call>"
    assert parts("<tool_call>", f"{broken}\n{call}", size=1) == [broken, ("get_tide", ASKED)]
    assert parts("<tool_call>", f"<tool_call>{call}", size=1) == ["<tool_call>", ("get_tide", ASKED)]


def test_marks_in_any_order():
    """However an answer is cut, its parts are the same; without a call, it is the text that it was."""
    marks = [*(mark for form in KNOWN for mark in form.marks), "<think>", "</think>", *' \n{["]}<>;a', NAMED, LLAMA]
    whole = [call for _, call in FORMS.values()]
    every = " ".join(template for template, _ in FORMS.values() if template != ">>>all")
    templates, rng, n_calls = [*sorted({template for template, _ in FORMS.values()}), every], random.Random(1), 0
    for _ in range(2000):
        template, answer = rng.choice(templates), "".join(rng.choices([*marks, *whole], k=rng.randint(1, 7)))
        made = parts(template, answer)
        assert parts(template, answer, size=rng.randint(1, 5)) == made, answer
        if any(isinstance(part, tuple) for part in made):
            n_calls += 1
        elif template != ">>>all":
            assert "".join(made) == answer
    assert 0 < n_calls < 1000


def test_ordinary_text_is_not_held_back():
    """Only what may begin a call is, and the white space before it."""
    reader = CallReader(find_forms("<tool_call>"), TOOLS)
    assert list(reader.feed("One")) == ["One"]
    assert list(reader.feed(" two <")) == [" two"]
    assert list(reader.feed("tool")) == []
    assert list(reader.feed("s> {")) == [" <tools> {"]
    reader = CallReader(find_forms(PLAIN.known_by), TOOLS)
    assert [list(reader.feed(piece)) for piece in ("{", '"name', 's"', ": 1")] == [[], [], ['{"names"'], [": 1"]]


def test_to_whom_functionary_speaks():
    """The prompt has the mark before it already."""
    assert parts(">>>all", "all\nThe tide is low.", size=1) == ["The tide is low."]
    reader = CallReader(find_forms(">>>all"), TOOLS)
    assert [list(reader.feed(piece)) for piece in ("all", "\nThe", " tide")] == [[], ["The"], [" tide"]]


def test_a_call_in_a_thought_is_none():
    call = FORMS["hermes"][1]
    thought = f"Perhaps {call}.</think>"
    assert parts("<tool_call>", f"{thought}\n{call}", size=1, thinks=True) == [thought, ("get_tide", ASKED)]
    assert parts("<tool_call>", f"<think>{thought}{call}", size=1) == [f"<think>{thought}", ("get_tide", ASKED)]
    assert parts("<tool_call>", f"<think>{call}", size=1) == [f"<think>{call}"]


def test_types_of_tagged_arguments():
    """What the schema calls a string stays one, whatever it looks like."""
    tags = "<function=get_tide>\n<parameter=city>\n17\n</parameter>\n<parameter=x>\n[1, 2]\n</parameter>\n</function>"
    assert parts("<function=", tags) == [("get_tide", {"city": "17", "x": [1, 2]})]


@pytest.mark.parametrize(
    "parameters", [{"properties": []}, {"properties": {"city": "string"}}, {"properties": None}, None]
)
def test_a_schema_that_is_none(parameters):
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    for call in (
        "<function=f><parameter=city>1</parameter></function>",
        "f<arg_key>city</arg_key><arg_value>1</arg_value>",
    ):
        reader = CallReader(find_forms("<tool_call>"), [tool])
        (made,) = reader.feed(f"<tool_call>{call}</tool_call>", is_end=True)
        assert json.loads(made["arguments"]) == {"city": 1}


def test_nested_arguments_without_quotes():
    call = '<|tool_call>call:get_wind{a:{b:[<|"|>x, y: z<|"|>,true],<|"|>c d<|"|>:1.5},e:null}<tool_call|>'
    assert parts("<|tool_call>", call) == [("get_wind", {"a": {"b": ["x, y: z", True], "c d": 1.5}, "e": None})]


def test_a_template_without_a_form_has_no_calls():
    assert find_forms("{{ messages }}") == []


@pytest.mark.parametrize(
    "calls",
    [
        [{}],
        [{"function": {"arguments": "{"}}],
        [{"function": {"arguments": "[1]"}}],
        ["a"],
        "a",
        [None],
        [{"function": 1}],
    ],
)
def test_earlier_calls_that_are_none(calls):
    """A client may send anything; it is left as it is."""
    message = {"role": "assistant", "tool_calls": calls}
    assert with_objects(message) == message
    assert not spells_python([message], "{'a': 1}")
