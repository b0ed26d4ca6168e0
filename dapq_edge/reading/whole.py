"""Answers of all windows of a document: each is read by itself, and answers within a bound."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..cache.kv_cache import KVCache
from ..cells import CHUNK
from ..control import UNCONTROLLED, Control
from ..errors import UsageError
from ..llamacpp.model import Model
from ..prompt import Prompt
from ..prompt.extent import Extent
from ..prompt.window import window_of
from ..store.store import Store
from .asking import bring_in
from .evidence import Guess
from .items import repeats
from .windows import N_OVERLAP, SIZES, Excerpt, excerpts

# tokens of the answer of a window, at most: six to ten lines of a list, or four sentences
N_PART = 96

# what stands before the question: without it, a small model answers as if the window were all of the text; behind the
# question, it is followed instead of it; see docs/results.md, "The whole document"
_ITEMS = "Answer from the text above only, one item a line, or answer: none"
HINTS = {
    Extent.LIST: _ITEMS,
    Extent.COUNT: "Do not count, but list them from the text above only, one item a line, or answer: none",
    Extent.COMPARE: _ITEMS,
    Extent.SUMMARY: "Answer for the text above only, in one or two sentences.",
    None: _ITEMS,
}


@dataclass(frozen=True)
class WindowAnswer:
    """Answer of a window.

    Attributes:
        tokens: Of the documents that were read.
        text: What it says, with what a model says around it.
        is_cut: Whether it had more to say than its bound.
        is_stored: Whether the window, or its answer, came from the store.
        n_evaluated: Tokens that were evaluated for it.
    """

    tokens: range
    text: str
    is_cut: bool
    is_stored: bool
    n_evaluated: int


def asked_of_each(question: str, extent: Extent | None) -> str:
    """Return what each window is asked, for a question about all of them."""
    return f"{HINTS[extent]}\n\n{question}"


def windows_of(prompt: Prompt, n_ctx_train: int) -> list[Excerpt]:
    """Return the windows of the documents of a prompt that answer one by one. Raises as `window_size` does."""
    return excerpts([len(part) for part in prompt.documents], window_size(prompt, n_ctx_train) + N_OVERLAP)


def window_size(prompt: Prompt, n_ctx_train: int) -> int:
    """Return the tokens of a window of the documents of a prompt, at most, without those behind it.

    Raises `UsageError` if the question leaves no room for any in a model of `n_ctx_train` tokens.
    """
    n_beside = _n_beside(prompt)
    n_free = n_ctx_train - n_beside - N_OVERLAP
    size = next((size for size in SIZES if size <= n_free), None)
    if size is None:
        raise UsageError(f"the question has {n_beside:,} tokens with its answer, the model sees {n_ctx_train:,}")
    return size


def n_cells_of(prompt: Prompt, windows: Sequence[Excerpt]) -> int:
    """Return the cells that the largest window needs with its answer."""
    return max(window.stop - window.start for window in windows) + _n_beside(prompt)


def _n_beside(prompt: Prompt) -> int:
    return len(window_of(prompt)) + prompt.n_header + N_PART


def answer_windows(
    cache: KVCache,
    model: Model,
    prompt: Prompt,
    windows: Sequence[Excerpt],
    store: Store | None = None,
    control: Control = UNCONTROLLED,
) -> Iterator[WindowAnswer]:
    """Yield the answers of windows of documents, one by one.

    Windows and answers that are in the store are not read or written again, so that what was stopped goes on.

    Args:
        cache: Loses what it has.
        model: It writes.
        prompt: The documents, and what each window is asked, see `asked_of_each`.
        windows: Of the documents, see `windows_of`.
        store: Has windows that were read before, and takes those that are.
        control: Watches and stops.

    Raises what `control` raises, and `DapqError` if llama.cpp fails.
    """
    around, n_evaluated = window_of(prompt), 0

    def read(tokens: list[int]) -> None:
        nonlocal n_evaluated
        for start in range(0, len(tokens), CHUNK):
            control.check()
            part = tokens[start : start + CHUNK]
            cache.read(part)
            n_evaluated += len(part)

    def answer(tokens: list[int]) -> tuple[str, bool, bool]:
        known = store.answers.load(tokens + around.tail, N_PART) if store else None
        if known is not None:
            return *known, True
        _, is_stored = bring_in(cache, tokens, Guess(), read, store.windows if store else None)
        read(around.tail)
        text, is_cut = _written(model, read)
        if store:
            store.answers.save(tokens + around.tail, N_PART, text, is_cut)
        return text, is_cut, is_stored

    if store:
        store.catalog.begin()
    control.report(0, len(prompt.body))
    for window in windows:
        n_before, (tokens, _) = n_evaluated, window.tokens(prompt, around)
        text, is_cut, is_stored = answer(tokens)
        control.report(window.chunks[-1].stop, len(prompt.body))
        seen = range(window.start, window.stop)
        yield WindowAnswer(seen, text, is_cut, is_stored, n_evaluated - n_before)


def _written(model: Model, read: Callable[[list[int]], None]) -> tuple[str, bool]:
    """Return the most likely answer to what was read, until it ends or goes round, and whether the bound cut it."""
    sampler, written, text = model.sampler(0.0), list[int](), ""
    while not repeats(text):
        token = model.sample(sampler)
        if model.is_end(token):
            return text.strip(), False
        if len(written) == N_PART:
            return text.strip(), True
        written.append(token)
        text = model.detokenize(written, special=False).decode("utf-8", "replace")
        read([token])
    return text.strip(), False
