"""Tasks that the endpoints give to the worker."""

import json
import secrets
from collections.abc import Callable, Generator, Iterator
from typing import Any

from ..chat.asking import Messages, choose
from ..chat.library import Library, Quoted
from ..chat.sources import Source, find_coverage, find_sources
from ..chat.whole import WholeQuestion
from ..documents.document import join
from ..errors import TooLongError, UsageError
from ..llama import Llama
from ..llamacpp.openai import at_least, grammar_of
from ..reading.stats import absent_note, part_note, room_warning, skip_note
from .schemas import ChatRequest, CompletionRequest
from .whole import results_of_all
from .worker import IdleWork, Task

# what is not for llama.cpp
OURS = {
    "n",
    "best_of",
    "user",
    "logit_bias_type",
    "min_tokens",
    "max_completion_tokens",
    "stream_options",
    "kv_budget",
    "policy",
    "whole",
}

# what all chunks of a stream have
CHUNK = "id", "object", "created", "model"

# characters that are tokenized at once: the time grows with their square
PART = 4096

# more tokens than a text has, at most, where it is cut
N_CUT = 16


def completion_task(body: CompletionRequest, model: str, n_predict: int) -> Task:
    """Return a task for a completion, or for chunks of it: of at most `n_predict` tokens, if the request says none."""

    def task(llama: Llama) -> Generator[Any, None, None]:
        options = _options(llama, body, n_predict)
        options["prompt"] = body.prompt[0] if isinstance(body.prompt, list) else body.prompt
        check_length(llama, options["prompt"] + (body.suffix or ""))
        results = _results(llama, llama.create_completion(**options | {"model": model}), body.stream)
        yield from _counted(llama, results, body)

    return task


def chat_task(body: ChatRequest, model: str, library: Library, n_predict: int) -> Task:
    """Return a task for a chat completion, or for chunks of it, see above; what is in the library is cited."""

    def task(llama: Llama) -> Generator[Any, None, None]:
        options = _options(llama, body, n_predict, body.max_completion_tokens) | {"model": model}
        texts = [str(message.content) for message in body.messages]
        # templates write the tools into the prompt
        check_length(llama, "".join([*texts, json.dumps(body.tools or ""), json.dumps(body.functions or "")]))
        contents = [str(message.content) for message in body.messages if message.role == "user"]
        quoted = library.quoted(contents)

        def written(messages: Messages) -> Iterator[Any]:
            return _results(llama, llama.create_chat_completion(**options | {"messages": messages}), body.stream)

        if quoted is None:
            yield from _counted(llama, written(options["messages"]), body)
            return

        def ordinary() -> Iterator[Any]:
            yield from _with_evidence(llama, written(options["messages"]), quoted)

        def of_all() -> Iterator[Any]:
            if not quoted.request:
                raise UsageError("asks each window a question, and there is none", param="whole")
            whole = WholeQuestion(llama.engine.model, join(library.documents_in(contents)), quoted.request)
            asked = options["messages"]
            return results_of_all(llama, whole, quoted.request, asked, written, model=model, is_stream=body.stream)

        answer = choose(llama, body.whole_mode, options["messages"], quoted.request, ordinary, of_all)
        yield from _counted(llama, answer, body)

    return task


def kept_task(llama: Llama) -> Generator[Any, None, None]:
    """Yield pieces of the text, and the share of heads that keep each."""
    yield llama.kept()


def count_task(text: str) -> Task:
    """Return a task that counts the tokens of a text."""

    def task(llama: Llama) -> Generator[Any, None, None]:
        yield sum(_counts(llama, text))

    return task


def ahead_work(name: str, text: str, n_tokens: int, say: Callable[[str], None]) -> IdleWork:
    """Return work for idle time: to read a document of about `n_tokens` tokens that a question will stand behind."""

    def work(llama: Llama) -> None:
        if n_tokens > llama.n_ctx():
            # the question is refused
            return
        for fault in llama.read_ahead([{"role": "user", "content": text}]).faults:
            say(fault)

    return IdleWork(name, work)


def _options(
    llama: Llama, body: ChatRequest | CompletionRequest, n_predict: int, n_wanted: int | None = None
) -> dict[str, Any]:
    """Return arguments of llama-cpp-python. Raises `UsageError`.

    n_predict: tokens of an answer whose request says none. n_wanted: those of another field than max_tokens.
    """
    llama.set_eviction(body.kv_budget, body.policy)
    options = body.model_dump(exclude=OURS)
    n_most = body.max_tokens if n_wanted is None else n_wanted
    options["max_tokens"] = n_most if n_most and n_most > 0 else n_predict
    if body.seed is None:
        # else it would follow from the seed of the request before
        options["seed"] = secrets.randbits(32)
    if body.logit_bias and max(map(int, body.logit_bias)) >= llama.n_vocab():
        raise UsageError(f"has a token id that is not below {llama.n_vocab():,}", param="logit_bias")
    if body.grammar is not None:
        options["grammar"] = grammar_of(body.grammar)
    if body.min_tokens:
        options["logits_processor"] = at_least(body.min_tokens, llama.token_eos())
    return options


def _counts(llama: Llama, text: str) -> Iterator[int]:
    """Yield the tokens of each part of a text."""
    for start in range(0, len(text), PART):
        yield len(llama.tokenize(text[start : start + PART].encode("utf-8", "replace"), add_bos=False))


def check_length(llama: Llama, text: str) -> None:
    """Raise `TooLongError` soon if a text is far too long; llama-cpp-python does it otherwise."""
    n_tokens = 0
    for n_part in _counts(llama, text):
        n_tokens += max(0, n_part - N_CUT)
        if n_tokens > llama.n_ctx():
            raise TooLongError(f"Requested tokens (more than {n_tokens}) exceed context window of {llama.n_ctx()}")


def _results(llama: Llama, made: Any, is_stream: bool) -> Generator[Any, None, None]:
    """Yield results; the last one says what was not done as it should."""
    for result in made if is_stream else [made]:
        if result["choices"][0]["finish_reason"]:
            usage = llama.usage
            warnings = [room_warning(usage.n_unpinned), skip_note(usage.n_windows), *usage.faults]
            if any(warnings):
                result["warnings"] = [str(warning) for warning in warnings if warning]
        yield result


def _counted(llama: Llama, results: Iterator[Any], body: ChatRequest | CompletionRequest) -> Generator[Any, None, None]:
    """Yield results; the last one says what it took, as llama-server does, and a further one if it is wanted."""
    is_wanted = body.stream and body.stream_options is not None and body.stream_options.include_usage
    for result in results:
        is_last = result["choices"][0]["finish_reason"] is not None
        counts = {"usage": llama.timings.usage, "timings": llama.timings.fields} if is_last else {}
        if not body.stream:
            result.update(counts)
        elif not is_wanted:
            result.update({name: part for name, part in counts.items() if name == "timings"})
        yield result
        if is_last and is_wanted:
            yield {**{name: result[name] for name in CHUNK}, "choices": [], **counts}


def _with_evidence(llama: Llama, results: Iterator[Any], quoted: Quoted) -> Generator[Any, None, None]:
    """Yield results; the first one says what the answer is based on, the last one what it was read from."""
    for i, result in enumerate(results):
        choice = result["choices"][0]
        if i == 0:
            result["evidence"] = _evidence(llama, quoted)
        if choice["finish_reason"]:
            # a call is read from nothing that could be quoted
            is_call = choice["finish_reason"] == "tool_calls"
            sources = [] if is_call else find_sources(llama.engine, quoted.document)
            place = choice["delta"] if "delta" in choice else choice["message"]
            place["annotations"] = [_annotation(quoted, source) for source in sources]
        yield result


def _evidence(llama: Llama, quoted: Quoted) -> dict[str, Any]:
    # it is said before the answer, and an eviction may be due behind its first tokens
    found = llama.engine.unsettled
    # what was only appended was not looked for
    absent = absent_note(found.read.chunks, quoted.request) if found.read and found.n_windows[1] else None
    part = part_note(quoted.request, found.sequence.n_skipped > 0)
    coverage = find_coverage(llama.engine, quoted.document)
    return {
        "coverage": coverage.line if coverage else "",
        "not_found": absent is not None,
        "partial": part is not None,
        "note": "; ".join(note for note in (absent, part) if note),
    }


def _annotation(quoted: Quoted, source: Source) -> dict[str, Any]:
    """Return a source as OpenAI's API has annotations; characters of a document count from its own start."""
    cited, place = source.citation, quoted.place_of(source)
    fields = {
        "filename": source.page.file,
        "page": source.page.label,
        "quote": source.quote,
        "start_index": cited.sentence[0],
        "end_index": cited.sentence[1],
        "document_start": place,
        "document_end": place + cited.stop - cited.start,
        "weight": round(cited.weight, 4),
    }
    return {"type": "file_citation", "file_citation": fields}
