"""A plugin for the `llm` command (https://llm.datasette.io): our models in it, and documents of all kinds."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import llm
from rich.console import Console

from ..chat.conversation import N_TEMPLATE
from ..counts import count
from ..documents.find import read_documents
from ..documents.kinds import HEAD, Kind, kind_of
from ..errors import DapqError
from ..llama import Llama
from ..llamacpp.log import captured_log
from ..planning.weights import ALIASES, cache_folder
from . import chat
from .options import read_options
from .parser import build_parser
from .running import check_model, open_llama, say, warnings_of

PREFIX = "dapq-edge"

# what names a document among the fragments of a prompt
LOADER = "doc"


class Options(llm.Options):  # type: ignore[misc]
    """Options of a prompt, for -o."""

    kv_budget: str | int = "auto"
    policy: str = "fused"
    temperature: float = 0.0
    max_tokens: int = 256


class Model(llm.Model):  # type: ignore[misc]
    """A model of this package. name: an alias, or a GGUF file."""

    can_stream = True
    Options = Options

    def __init__(self, model_id: str, name: str) -> None:
        self.model_id, self._name = model_id, name
        self._llama: Llama | None = None

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[str]:
        """Yield the answer in pieces."""
        options, console, is_cut = prompt.options, Console(stderr=True), False
        messages = [{"role": message.role, "content": _text_of(message)} for message in prompt.messages]
        with captured_log():
            llama = self._llama = self._llama or _opened(self._name, console)
            llama.set_eviction(options.kv_budget, options.policy)
            n_text = len(llama.tokenize("".join(message["content"] for message in messages).encode(), add_bos=False))
            llama.extend(n_text + N_TEMPLATE * len(messages) + options.max_tokens)
            sampling = {"max_tokens": options.max_tokens, "temperature": options.temperature}
            for chunk in llama.create_chat_completion(messages, stream=True, **sampling):
                choice = chunk["choices"][0]
                is_cut = choice["finish_reason"] == "length"
                yield choice["delta"].get("content") or ""
        response.set_usage(input=llama.timings.n_prompt, output=llama.timings.n_predicted)
        cut = f"the answer was cut after {count(options.max_tokens, 'token')}: raise -o max_tokens"
        lines = [*warnings_of(llama.usage), *([cut] if is_cut else [])]
        if lines:
            # the line of the answer ends when it is printed, which is later
            console.print()
        say(lines, console)


def _opened(name: str, console: Console) -> Llama:
    """Open a model as `dapq-edge chat` does."""
    options = read_options(chat.Options, build_parser().parse_args(["chat", "-m", name]))
    check_model(options.model)
    return open_llama(options.model, options.eviction, options.store, console)


def _text_of(message: Any) -> str:
    """Return the text of a message. Raises `DapqError` if it has anything else."""
    if not all(hasattr(part, "text") for part in message.parts):
        raise DapqError("only texts are read, no attachments or tools: documents are read by -f")
    return "".join(part.text for part in message.parts)


@llm.hookimpl  # type: ignore[untyped-decorator]
def register_models(register: Any) -> None:
    """Add the aliases, and the GGUF files in the folder of downloads."""
    for alias in ALIASES:
        register(Model(f"{PREFIX}/{alias}", alias))
    own = {model.name for model in ALIASES.values()}
    for path in sorted(cache_folder().glob("*.gguf")):
        if path.name not in own:
            register(Model(f"{PREFIX}/{path.stem}", str(path)))


@llm.hookimpl  # type: ignore[untyped-decorator]
def register_fragment_loaders(register: Any) -> None:
    """Add the loader of documents: `-f doc:report.pdf`, for any model."""
    register(LOADER, _load)


@llm.hookimpl  # type: ignore[untyped-decorator]
def register_commands(cli: Any) -> None:
    """Read PDFs and files of Office as documents where -f names them, which `llm` would read as text."""
    for command in ("prompt", "chat"):
        for param in cli.commands[command].params:
            if param.name == "fragments":
                param.callback = lambda context, param, names: tuple(map(_with_loader, names))


def _load(name: str) -> list[Any]:
    """Read a document, all of a folder or a pattern; say what was not read of it."""
    documents, notes = read_documents([name])
    say(notes, Console(stderr=True))
    # the question is behind a blank line
    return [llm.Fragment(document.text + "\n", document.name) for document in documents]


def _with_loader(name: str) -> str:
    with suppress(OSError, DapqError):
        with Path(name).open("rb") as file:
            head = file.read(HEAD)
        if kind_of(head, name) in (Kind.PDF, Kind.OFFICE):
            return f"{LOADER}:{name}"
    return name
