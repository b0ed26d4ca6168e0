"""Forms in which models write calls of tools: what stands around a call, and how its text is read.

A form is known by what the chat template of the model holds, as in llama.cpp's `common/chat.cpp`.
"""

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# the name of a tool, and its arguments by their names
Written = tuple[str, dict[str, Any]]

# JSON schemas of the arguments of each tool, by its name
Schemas = dict[str, dict[str, Any]]

# returns the calls of the text between two marks, and raises ValueError if it is none
Read = Callable[[str, Schemas], list[Written]]

# names for the same in the JSON of models
NAMES, ARGUMENTS = ("name", "tool_name"), ("arguments", "parameters")


@dataclass(frozen=True)
class Form:
    """Marks and syntax of the calls that a model writes.

    Attributes:
        start: What a call begins with.
        stop: What it ends with; empty for the end of the answer.
        read: Returns the calls of the text between them, and raises ValueError if it is none; None for a mark that is
            no part of an answer.
        known_by: What the chat template of such a model holds; by default `start`.
        opening: What the prompt ends with already, though the first call begins with it.
        is_bare: Whether `start` is a part of the call, with any white space in it, and such an answer has no text.
        inner: Further marks, which may be control tokens of the model, too.
        end: What the model goes on with in place of the tools; empty if its answer ends.
    """

    start: str
    stop: str
    read: Read | None
    known_by: str = ""
    opening: str = ""
    is_bare: bool = False
    inner: tuple[str, ...] = ()
    end: str = ""

    @property
    def marks(self) -> list[str]:
        """Texts around and in a call that may be control tokens of the model."""
        return [mark for mark in (self.start, self.stop, *self.inner, self.end) if mark]


def find_forms(template: str) -> list[Form]:
    """Return the forms that a chat template knows."""
    return [form for form in FORMS if (form.known_by or form.start) in template]


def read_json(text: str, schemas: Schemas) -> list[Written]:
    """Return calls that are JSON: an object, several, or a list of them, `{"name": ..., "arguments": {...}}`."""
    values: list[Any] = []
    for value in _values(text):
        values += value if isinstance(value, list) else [value]
    return [_call(value) for value in values]


def _values(text: str) -> Iterator[Any]:
    """Yield values of JSON that stand one behind the other, with commas or semicolons between. Raises ValueError."""
    decoder = json.JSONDecoder()
    while text := text.strip(",; \t\r\n"):
        value, stop = decoder.raw_decode(text)
        yield value
        text = text[stop:]


def _call(value: Any) -> Written:
    """Return the call that a value of JSON is. Raises ValueError."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        raise ValueError("a call is an object")
    name = next((value[key] for key in NAMES if key in value), None)
    arguments: Any = next((value[key] for key in ARGUMENTS if key in value), {})
    # some models write the text that they were shown
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError("a call has a name and arguments")
    return name, arguments


def read_tags(text: str, schemas: Schemas) -> list[Written]:
    """Return calls with tags: `<function=NAME>`, whose first mark may be read already, and JSON or arguments in it."""
    calls = []
    while text := text.strip():
        found = re.match(r"(?:<function(?:=| name=\"))?([\w.-]+)\"?>(.*?)(?:</function>|\Z)", text, re.DOTALL)
        if not found:
            raise ValueError("a call has a name")
        calls.append(_call({"name": found[1], "arguments": _tagged(found[2], _part(schemas, found[1]))}))
        text = text[found.end() :]
    return calls


def _tagged(text: str, schema: dict[str, Any]) -> Any:
    """Return arguments that are JSON, or have a tag each. Raises ValueError."""
    if text.lstrip().startswith("{"):
        return json.loads(text)
    arguments, known = {}, _part(schema, "properties")
    while text := text.strip():
        found = re.match(r"<param(?:eter)?(?:=| name=\")([^>\"]+)\"?>(.*?)</param(?:eter)?>", text, re.DOTALL)
        if not found:
            raise ValueError("an argument has a name")
        arguments[found[1]] = _value(found[2], _part(known, found[1]))
        text = text[found.end() :]
    return arguments


def _part(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """Return what a schema says of a key; nothing if it says anything else than JSON schemas do."""
    part = schema.get(key)
    return part if isinstance(part, dict) else {}


def _value(text: str, schema: dict[str, Any]) -> Any:
    """Return the value of an argument that is written without quotes; a schema says if it is a text."""
    # a line break at each end belongs to the tags
    text = text.removeprefix("\n").removesuffix("\n")
    if text.startswith("<![CDATA[") and text.endswith("]]>"):
        return text[9:-3]
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_pairs(text: str, schemas: Schemas) -> list[Written]:
    """Return the call that is a name with pairs of tags: `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`."""
    name, *pairs = text.split("<arg_key>")
    arguments, known = {}, _part(_part(schemas, name.strip()), "properties")
    for pair in pairs:
        found = re.fullmatch(r"(.*?)</arg_key>\s*<arg_value>(.*)</arg_value>\s*", pair, re.DOTALL)
        if not found:
            raise ValueError("an argument has a name and a value")
        key = found[1].strip()
        arguments[key] = _value(found[2], _part(known, key))
    return [(name.strip(), arguments)]


def read_any(text: str, schemas: Schemas) -> list[Written]:
    """Return calls that are JSON, tags, or a name with pairs of tags: the mark around them is the same."""
    readers = {"<": read_tags, "{": read_json, "[": read_json}
    return readers.get(text.lstrip()[:1], read_pairs)(text, schemas)


def read_named(text: str, schemas: Schemas) -> list[Written]:
    """Return calls whose names stand before their arguments: `NAME{...}`, with a mark between calls, or a list."""
    if text.lstrip().startswith("["):
        return read_json(text, schemas)
    calls, decoder = [], json.JSONDecoder()
    while text := text.strip():
        found = re.match(r"(?:\[TOOL_CALLS\]|>>>)?\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\]\s*)?(?=\{)", text)
        if not found:
            raise ValueError("a call has a name")
        arguments, stop = decoder.raw_decode(text, found.end())
        calls.append(_call({"name": found[1], "arguments": arguments}))
        text = text[stop:]
    return calls


def read_python(text: str, schemas: Schemas) -> list[Written]:
    """Return calls that are Python: `[NAME(key="value")]`; arguments are literals."""
    with warnings.catch_warnings():
        # of a backslash in a text
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise ValueError("no Python") from error
    calls = []
    for call in tree.elts if isinstance(tree, ast.List) else [tree]:
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("a call has a name and arguments with names")
        keys = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}
        calls.append((ast.unparse(call.func), keys))
    return calls


def braces(quote: str) -> Read:
    """Return a reader of `call:NAME{key:QUOTEvalueQUOTE}`, which is JSON with other quotes, and none around names."""

    def read(text: str, schemas: Schemas) -> list[Written]:
        found = re.fullmatch(r"\s*call:([\w.-]+)\s*(\{.*\})\s*", text, re.DOTALL)
        if not found:
            raise ValueError("a call has a name")
        parts = found[2].split(quote)
        # each second one is a text
        parts[::2] = [re.sub(r"([{,]\s*)([\w.-]+)(\s*:)", r'\1"\2"\3', part) for part in parts[::2]]
        parts[1::2] = [json.dumps(part) for part in parts[1::2]]
        return [_call({"name": found[1], "arguments": json.loads("".join(parts))})]

    return read


# calls that nothing stands around, known by the words that ask for them
PLAIN = Form('{"name":', "", read_json, known_by='{"name": function name, "parameters":', is_bare=True)
TYPED = Form('{"type":"function"', "", read_json, known_by=PLAIN.known_by, is_bare=True)

FORMS = [
    # Hermes, Qwen, Granite 4; as tags Qwen3-Coder, Qwen3.5, Nemotron 3; as pairs GLM 4
    Form("<tool_call>", "</tool_call>", read_any),
    # Seed-OSS
    Form("<seed:tool_call>", "</seed:tool_call>", read_tags),
    # Functionary 3.1, and what forgets the mark around it
    Form("<function=", "</function>", read_tags),
    # MiniCPM5
    Form('<function name="', "</function>", read_tags),
    # Functionary 3.2, which says to whom it speaks
    Form(">>>all\n", "", None, known_by=">>>all", opening=">>>"),
    Form(">>>", "", read_named, known_by=">>>all", opening=">>>"),
    # Llama 3
    Form("<|python_tag|>", "", read_json),
    PLAIN,
    TYPED,
    # Mistral
    Form("[TOOL_CALLS]", "", read_named, inner=("[CALL_ID]", "[ARGS]")),
    # Granite 3
    Form("<|tool_call|>", "", read_json),
    # Nemotron Nano 2, Apriel, Command R7B
    Form("<TOOLCALL>", "</TOOLCALL>", read_json),
    Form("<tool_calls>", "</tool_calls>", read_json),
    Form("<|START_ACTION|>", "<|END_ACTION|>", read_json),
    # Gemma 4, FunctionGemma
    Form("<|tool_call>", "<tool_call|>", braces('<|"|>'), inner=('<|"|>',)),
    Form(
        "<start_function_call>",
        "<end_function_call>",
        braces("<escape>"),
        inner=("<escape>",),
        end="<start_function_response>",
    ),
    # LFM2
    Form("<|tool_call_start|>", "<|tool_call_end|>", read_python, known_by="List of tools: "),
]
