"""The request, wherever it stands: which tokens of a prompt are pinned, which ask, and which are documents."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..cells import N_SINK
from ..llamacpp.model import Model
from .paragraphs import level_of, question_in, refers_back, split_text
from .prompt import QUESTION, Kind, Part, Prompt, Table
from .tables import find_tables
from .turns import ASSISTANT, N_ROLE, SYSTEM, Message, find_messages

# a message of more tokens has a document in it
N_LONG = 256

# a system message of more tokens is a document itself, unless that many have room to be pinned
N_SYSTEM = 1024

# a shorter message without a question mark is a remark
N_SHORT = 8

# tokens of a question at most; what is before them is read with it where there is room
N_QUESTION = 64

# messages of the user whose requests hold, beside the last one; what they gave is not asked again later
N_BACK = 2

# tokens of an answer that a new question may speak of, and of the first lines of a table, at most
N_LAST_ANSWER, N_HEADER = 128, 96

# tokens of a generation prompt at most; what is longer is the start of an answer
N_END = 128

# tokens that a template writes between messages at most; more are a text of its own
N_FRAME = 64

# the name of a tool in JSON, as templates and agents write it
_NAME = re.compile(r'"name"\s*:\s*"([^"\n]{1,64})"')


def split_prompt(
    model: Model,
    tokens: Sequence[int],
    messages: Sequence[Message] | None = None,
    n_long: int = N_LONG,
    n_system: int = N_SYSTEM,
) -> Prompt:
    """Find what a prompt wants, and of what.

    Args:
        model: For its vocabulary.
        tokens: Of the prompt.
        messages: What is known of it; otherwise messages begin with control tokens.
        n_long: A message of more tokens has a document in it.
        n_system: A system message of more tokens is a document itself.
    """
    pieces = model.pieces(tokens)
    if messages is None:
        messages = find_messages(model, tokens)
    return _Splitter(list(tokens), pieces, list(messages), n_long, n_system).prompt(tuple(model.tokenize("\n\n")))


class _Splitter:
    """Divides the tokens of a prompt, given its messages, into parts."""

    def __init__(
        self, tokens: list[int], pieces: list[bytes], messages: list[Message], n_long: int, n_system: int
    ) -> None:
        self.tokens = tokens
        self.pieces = pieces
        self.messages = messages
        self.n_long = n_long
        self.n_system = n_system
        self.tables: list[Table] = []
        asking = [message for message in messages if message.role not in (*SYSTEM, *ASSISTANT, "tool", "function")]
        self.last = asking[-1] if asking else None
        self.ages = {message: age for age, message in enumerate(reversed(asking))}

    def prompt(self, separator: tuple[int, ...]) -> Prompt:
        parts = self._parts()
        # what asks nothing anywhere ends with what is wanted, as most prompts do
        if not any(_says_what_is_wanted(part) for part in parts):
            parts = self._parts(must_ask=True)
        question, n_longest, n_unpinned = self._question(parts), self._n_longest(parts), self._n_unpinned(parts)
        parts = self._without_answered(parts, question)
        return Prompt(self.tokens, joined(parts), question, tuple(self.tables), separator, n_longest, n_unpinned)

    @property
    def _has_document(self) -> bool:
        return any(message.stop - message.start > self.n_long for message in self.messages)

    def _without_answered(self, parts: list[Part], question: range | None) -> list[Part]:
        """Return the parts, of which older questions and the last answer are history, unless the new one needs them."""
        if question is None or refers_back(self._text(question.start, question.stop)):
            return parts
        asked = next(part for part in parts if part.start <= question.start < part.stop)
        answered = {
            part
            for part in parts
            if part.kind == Kind.ANSWER
            or (part.kind == Kind.REQUEST and part.level == QUESTION and part.age > asked.age)
        }
        return _as_history(parts, answered) if self._has_document else parts

    def _question(self, parts: list[Part]) -> range | None:
        """Return the tokens that ask: of the newest request that does, or of the system message."""
        asking = sorted(
            (part for part in parts if _says_what_is_wanted(part)),
            key=lambda part: (part.level == 0, part.kind == Kind.SYSTEM, part.age, -part.level, -part.start),
        )
        if not asking:
            return None
        part = asking[0]
        text, starts = self._text(part.start, part.stop), self._starts(part)
        first, last = np.searchsorted(starts, question_in(text), side="right").tolist()
        start, stop = part.start + first - 1, part.start + last
        return range(max(start, stop - N_QUESTION), stop)

    def _n_longest(self, parts: list[Part]) -> int:
        """Return the tokens of documents in the message that has most; small talk has none."""
        documents = [part for part in parts if part.kind == Kind.DOCUMENT]
        messages = self.messages or [Message("user", 0, len(self.tokens))]
        counts = [
            sum(len(part) for part in documents if message.start <= part.start < message.stop) for message in messages
        ]
        return max(counts)

    def _n_unpinned(self, parts: list[Part]) -> int:
        """Return the tokens of system messages, and of what the template writes, that are documents."""
        others = [message for message in self.messages if message.role not in SYSTEM]
        stop = max((message.stop for message in self.messages), default=0)
        return sum(
            len(part)
            for part in parts
            if part.kind == Kind.DOCUMENT
            and part.stop <= stop
            and not any(message.start <= part.start < message.stop for message in others)
        )

    def _parts(self, must_ask: bool = False) -> list[Part]:
        self.tables, parts, place = [], [], 0
        for message in self.messages:
            parts += self._frame(place, message.start)
            parts += self._message(message, must_ask and message == self.last)
            place = message.stop
        n_tokens = len(self.tokens)
        is_end = bool(self.messages) and n_tokens - place <= N_END
        parts.append(Part(Kind.END if is_end else Kind.DOCUMENT, place, n_tokens))
        return _with_sinks([part for part in parts if len(part)])

    def _frame(self, start: int, stop: int) -> list[Part]:
        """Return the parts of what the template writes; it may have a long text of its own, or tools."""
        if stop - start <= N_FRAME:
            return [Part(Kind.FRAME, start, stop)]
        text = Message("system", start, stop - N_ROLE)
        if text.stop - start <= self.n_system:
            return [Part(Kind.SYSTEM, start, text.stop), Part(Kind.FRAME, text.stop, stop)]
        return [*self._with_names(text, [Part(Kind.DOCUMENT, start, text.stop)]), Part(Kind.FRAME, text.stop, stop)]

    def _with_names(self, message: Message, parts: list[Part]) -> list[Part]:
        """Return the parts of a long system message, of which the start and the names of tools are pinned."""
        starts = self._starts(message)
        names = [
            range(*(message.start + int(np.searchsorted(starts, place)) for place in name.span(1)))
            for name in _NAME.finditer(self._text(message.start, message.stop))
        ]
        made: list[Part] = []
        for part in parts:
            place = part.start
            first = range(message.start, message.start + N_FRAME)
            for name in [first, *names] if part.kind == Kind.DOCUMENT else []:
                start, stop = max(place, name.start), min(part.stop, name.stop)
                if start < stop:
                    made += [replace(part, start=place, stop=start), Part(Kind.SYSTEM, start, stop)]
                    place = stop
            made.append(replace(part, start=place))
        return [part for part in made if len(part)]

    def _message(self, message: Message, must_ask: bool) -> list[Part]:
        start, stop, n_tokens = message.start, message.stop, message.stop - message.start
        if message.role in ASSISTANT:
            return [Part(Kind.ANSWER if self._is_last_answer(message) else Kind.DOCUMENT, start, stop)]
        if n_tokens > (self.n_system if message.role in SYSTEM else self.n_long):
            return self._long(message, must_ask)
        if message.role in SYSTEM:
            return [Part(Kind.SYSTEM, start, stop, level_of(self._text(start, stop)))]
        age = self.ages.get(message, N_BACK + 1)
        if age > N_BACK:
            return [Part(Kind.DOCUMENT, start, stop)]
        return [Part(Kind.REQUEST, start, stop, level_of(self._text(start, stop)), age)]

    def _is_last_answer(self, message: Message) -> bool:
        later = self.messages[self.messages.index(message) + 1 :]
        is_last = not any(other.role in ASSISTANT for other in later) and self.last in later
        return is_last and message.stop - message.start <= N_LAST_ANSWER

    def _long(self, message: Message, must_ask: bool) -> list[Part]:
        text, starts = self._text(message.start, message.stop), self._starts(message)
        age = self.ages.get(message, N_BACK + 1)

        def token(place: int) -> int:
            return message.start + int(np.searchsorted(starts, place))

        for start, header, stop in find_tables(text):
            first, end = token(start), token(stop)
            self.tables.append(Table(first, min(token(header), first + N_HEADER), end))
        if message.role in SYSTEM:
            # what it asks stands for the whole conversation
            age = 0
        elif age > N_BACK:
            return [Part(Kind.DOCUMENT, message.start, message.stop)]
        kinds = {True: Kind.REQUEST, False: Kind.DOCUMENT}
        spans = split_text(text, lambda start, stop: token(stop) - token(start), must_ask=must_ask)
        parts = [Part(kinds[span.is_request], token(span.start), token(span.stop), span.level, age) for span in spans]
        return self._with_names(message, parts) if message.role in SYSTEM else parts

    def _text(self, start: int, stop: int) -> str:
        return b"".join(self.pieces[start:stop]).decode("utf-8", "replace")

    def _starts(self, message: Message | Part) -> npt.NDArray[np.intp]:
        """Return at which character of a text each of its tokens starts: integers [tokens]."""
        pieces = self.pieces[message.start : message.stop]
        # a character is where its first byte is
        is_first = (np.frombuffer(b"".join(pieces), dtype=np.uint8) & 0xC0) != 0x80
        n_before = np.concatenate([[0], np.cumsum(is_first)])
        starts: npt.NDArray[np.intp] = n_before[np.cumsum([0, *map(len, pieces[:-1])])]
        return starts


def _as_history(parts: list[Part], old: set[Part]) -> list[Part]:
    """Return the parts, some of which are history; of the frames around a run of them, one stays."""
    made: list[Part] = []
    is_run = has_frame = False
    for part, after in zip(parts, [*parts[1:], parts[-1]], strict=True):
        if part in old and not is_run:
            is_run, has_frame = True, bool(made) and made[-1].kind == Kind.FRAME
        elif part not in old:
            is_run = is_run and part.kind == Kind.FRAME and (has_frame or after in old)
        made.append(replace(part, kind=Kind.HISTORY, level=0) if is_run else part)
    return made


def _says_what_is_wanted(part: Part) -> bool:
    if part.kind == Kind.SYSTEM:
        return part.level == QUESTION
    return part.kind == Kind.REQUEST and (part.level > 0 or part.age == 0)


def _with_sinks(parts: list[Part]) -> list[Part]:
    """The first tokens draw attention whatever they are, so that they stand before each window."""
    made: list[Part] = []
    for part in parts:
        start = min(max(part.start, N_SINK), part.stop) if part.kind == Kind.DOCUMENT else part.start
        made += [Part(Kind.FRAME, part.start, start), replace(part, start=start)]
    return [part for part in made if len(part)]


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Return the parts with neighbours of one kind, and older turns with the frames between them, as one."""
    made: list[Part] = []
    for part in parts:
        if not len(part):
            continue
        is_history = part.kind == Kind.DOCUMENT and len(part) <= N_LONG
        if is_history and [old.kind for old in made[-2:]] == [Kind.DOCUMENT, Kind.FRAME]:
            made[-2:] = [replace(made[-2], stop=part.stop)]
        elif made and part.kind in (Kind.DOCUMENT, Kind.FRAME) and made[-1].kind == part.kind:
            made[-1] = replace(made[-1], stop=part.stop)
        else:
            made.append(part)
    return tuple(made)
