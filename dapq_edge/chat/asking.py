"""Answers about documents of a conversation: from what is most relevant, or from all windows of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import NotReadError
from ..llama import Llama
from ..prompt.extent import Extent, extent_of
from ..reading.flat import is_flat
from ..reading.timings import Timings
from .joined import Item
from .whole import WholeMode, WholeQuestion

T = TypeVar("T")

Messages = list[dict[str, Any]]

# roles of messages that hold for all questions
SYSTEM = "system", "developer"


@dataclass(frozen=True)
class Found:
    """Items that are new in a window.

    Attributes:
        items: They.
        text: What they add to the answer, which is a list, or a count at its end.
    """

    items: Sequence[Item]
    text: str = ""


# what `ask_all` begins with
NOTHING_YET = Found(())


def choose(
    llama: Llama,
    mode: WholeMode,
    messages: Messages,
    question: str,
    ordinary: Callable[[], Iterator[T]],
    of_all: Callable[[], Iterator[T]],
) -> Iterator[T]:
    """Yield an ordinary answer, or one from all windows of the documents, if they do not fit.

    Args:
        llama: It reads and answers.
        mode: Says when all windows are asked.
        messages: The conversation.
        question: The newest one, without documents.
        ordinary: Answers from what is most relevant.
        of_all: Answers from all windows.

    Raises what these raise.
    """
    if mode == WholeMode.ON and not llama.fits(messages):
        yield from of_all()
        return
    # what asks for all by its words may still have its answer in one place
    may_be_whole = mode == WholeMode.AUTO and extent_of(question) is not None
    llama.goes_on = (lambda chunks: not is_flat(chunks)) if may_be_whole else None
    try:
        yield from ordinary()
        return
    except NotReadError:
        pass
    finally:
        llama.goes_on = None
    yield from of_all()


def ask_all(
    llama: Llama, whole: WholeQuestion, question: str, messages: Messages, write: Callable[[Messages], Iterator[T]]
) -> Iterator[Found | T]:
    """Yield what is new in the answer of each window, and then the answer over all of that, if it is no list or count.

    It begins with `NOTHING_YET`: the windows are asked now. `llama.control` watches and stops; what was
    stopped goes on where it was, if there is a store.

    Args:
        llama: It reads and answers.
        whole: Asks the windows.
        question: It.
        messages: The conversation, whose system message holds for the answer over the parts.
        write: Answers messages.

    Raises what `Llama.control` raises, and `DapqError` if llama.cpp fails.
    """
    engine, system = llama.engine, [message for message in messages if message["role"] in SYSTEM]
    llama.timings = timings = Timings(len(whole.prompt))
    yield NOTHING_YET
    for new in whole.ask(engine, llama.control):
        if new:
            yield Found(new, _added(whole, new))
    if not whole.is_joined:
        parts = whole.parts(engine, lambda text: llama.fits(_asked(system, text, question)), llama.control)
        asked = _asked(system, parts, question)
        whole.is_skimmed = not llama.fits(asked)
        yield from write(asked)
        return
    timings.note_prompt()
    timings.n_predicted = len(engine.model.tokenize(whole.joined))
    if whole.extent == Extent.COUNT:
        yield Found((), whole.joined)


def _added(whole: WholeQuestion, new: Sequence[Item]) -> str:
    """Return what new items add to the answer: lines of a list."""
    if whole.extent != Extent.LIST:
        return ""
    is_first = len(new) == len(whole.items)
    return ("" if is_first else "\n") + "\n".join(item.text for item in new)


def _asked(system: Messages, parts: str, question: str) -> Messages:
    return [*system, {"role": "user", "content": f"{parts}\n\n{question}"}]
