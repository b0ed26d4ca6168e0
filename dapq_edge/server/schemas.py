"""Requests: those of llama-cpp-python's server, with eviction, and without what would stop llama.cpp."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from ..chat.whole import WholeMode
from ..llamacpp.openai import CreateChatCompletionRequest, CreateCompletionRequest, has_grammar

# a schema becomes a grammar with so many copies of a part, at most
MAX_SCHEMA, MAX_REPEAT = 2**16, 1000
COUNTS = "minItems", "maxItems", "minLength", "maxLength"

Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Int32 = Annotated[int, Field(ge=0), AfterValidator(lambda n: min(n, 2**31 - 1))]

# -1 is any number of them
Limit = Annotated[int, Field(ge=-1), AfterValidator(lambda n: min(n, 2**31 - 1))]


def _only(*allowed: Any, because: str) -> BeforeValidator:
    """Refuse all other values, with a reason."""

    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(because)
        return value

    return BeforeValidator(check)


One = Annotated[
    Literal[1] | None, _only(1, None, because="there is one answer to a request: send it again for another")
]
NO_LOGPROBS = "log-probabilities are not kept, as they would take more memory than the model"


class StreamOptions(BaseModel):
    """Options of a stream. include_usage: whether a last chunk says how many tokens it took."""

    include_usage: bool = False


class _Request(BaseModel):
    """Fields that completions and chat completions have in common.

    kv_budget: cells to keep, a share ("25%"), or "auto". policy: see `dapq-edge policies`. Both as the server was
    started by default.
    """

    kv_budget: int | str | None = Field(default=None, description='Cells to keep, a share ("25%"), or "auto".')
    policy: str | None = Field(default=None, description="How to choose the cells: see dapq-edge policies.")
    temperature: Temperature = 0.8
    top_k: Limit = 40
    min_tokens: Int32 = 0
    max_tokens: Limit | None = None
    repeat_penalty: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    seed: int | None = None
    n: One = 1
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("the body is JSON, but no object")
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half of a surrogate pair") from None
        except RecursionError:
            raise ValueError("the request is nested too deeply") from None
        # clients send null for what they leave to the server
        return {name: value for name, value in data.items() if value is not None}

    @field_validator("stop", check_fields=False)
    @classmethod
    def _no_empty_stop(cls, stop: str | list[str] | None) -> list[str]:
        """An empty text is in every answer."""
        return [text for text in ([stop] if isinstance(stop, str) else stop or []) if text]

    @field_validator("seed")
    @classmethod
    def _seed_of_32_bits(cls, seed: int | None) -> int | None:
        return None if seed is None else seed & 0xFFFFFFFF

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        if bias is not None and not all(key.isascii() and key.isdigit() and len(key) < 10 for key in bias):
            raise ValueError("the keys are ids of tokens")
        return bias


class CompletionRequest(_Request, CreateCompletionRequest):
    """`POST /v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)] = ""
    max_tokens: Limit | None = 16
    best_of: One = 1
    logprobs: Annotated[None, _only(None, because=NO_LOGPROBS)] = None


class TextPart(BaseModel):
    """A part of a message; images are not read."""

    type: Literal["text"]
    text: str


class Message(BaseModel, extra="allow"):
    """A message; its content becomes one text."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = ""

    @model_validator(mode="after")
    def _as_text(self) -> "Message":
        if isinstance(self.content, list):
            self.content = "\n\n".join(part.text for part in self.content)
        self.content = self.content or ""
        return self


class ChatRequest(_Request, CreateChatCompletionRequest):
    """`POST /v1/chat/completions`; the content of a message is text."""

    whole: Literal["auto", "on", "off"] | None = Field(
        default=None,
        description="Ask each window of documents that do not fit, and join the answers: auto if the question asks for "
        "all of them, on always, off never. By default auto for a stream, off otherwise.",
    )
    messages: Annotated[list[Message], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    functions: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    function_call: Literal["none", "auto"] | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    max_completion_tokens: Limit | None = None
    logprobs: Annotated[Literal[False] | None, _only(None, False, because=NO_LOGPROBS)] = None

    @property
    def whole_mode(self) -> WholeMode:
        """Choice of when windows are asked: a client that streams sees how far it is, another one has to want it."""
        return WholeMode(self.whole or ("auto" if self.stream and not self._has_form else "off"))

    @property
    def _has_form(self) -> bool:
        """True if the answer has to have a form, which what windows answer has not."""
        return bool(self.tools or self.functions or self.response_format or self.grammar)

    @model_validator(mode="after")
    def _whole_is_text(self) -> "ChatRequest":
        if self.whole in ("auto", "on") and self._has_form:
            raise ValueError("whole: windows answer in text, without tools, response_format or grammar")
        return self

    @field_validator("response_format")
    @classmethod
    def _json_format(cls, wanted: dict[str, Any] | None) -> dict[str, Any] | None:
        kinds = ("text", "json_object", "json_schema")
        if wanted is not None and wanted.get("type") not in kinds:
            raise ValueError(f"type: one of {', '.join(kinds)}")
        if wanted is None or wanted["type"] == "text":
            return None
        schema = wanted.get("schema")
        if wanted["type"] == "json_schema":
            schema = wanted.get("json_schema") or {}
            schema = schema.get("schema") if isinstance(schema, dict) else schema
        if schema is not None and not isinstance(schema, dict):
            raise ValueError("the schema is no object")
        _check_schema(schema)
        if schema and not has_grammar(schema):
            raise ValueError("no grammar can be made of the schema: each part of it needs a type")
        return {"type": "json_object", "schema": schema} if schema else {"type": "json_object"}

    @field_validator("tools", "functions")
    @classmethod
    def _named(cls, tools: list[dict[str, Any]] | None, info: ValidationInfo) -> list[dict[str, Any]] | None:
        for tool in tools or []:
            function = tool.get("function") if info.field_name == "tools" else tool
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise ValueError("a tool is a function with a name")
            if not isinstance(function.setdefault("parameters", {}), dict):
                raise ValueError("the parameters of a tool are an object")
            _check_schema(function["parameters"])
        return tools

    @model_validator(mode="after")
    def _no_choice_of_none(self) -> "ChatRequest":
        """Clients may choose among tools when there are none."""
        if not self.tools:
            self.tool_choice = None
        return self

    @field_validator("tool_choice", "function_call")
    @classmethod
    def _of_a_function(cls, choice: Any) -> Any:
        if isinstance(choice, dict) and not isinstance(choice.get("function", choice).get("name"), str):
            raise ValueError("it has no function with a name")
        return choice


def _check_schema(schema: Any) -> None:
    """Raise ValueError if the grammar of a JSON schema would be huge."""
    if len(json.dumps(schema)) > MAX_SCHEMA:
        raise ValueError(f"a schema has at most {MAX_SCHEMA:,} characters")
    rest = [schema]
    while rest:
        part = rest.pop()
        if isinstance(part, list):
            rest += part
        if isinstance(part, dict):
            rest += part.values()
            counts = [part[name] for name in COUNTS if isinstance(part.get(name), int)]
            counts += map(int, re.findall(r"[{,]\s*(\d{1,9})", str(part.get("pattern", ""))))
            if max(counts, default=0) > MAX_REPEAT:
                raise ValueError(f"a schema repeats a part at most {MAX_REPEAT:,} times")
