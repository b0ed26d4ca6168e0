"""Parts of a prompt that are pinned: its system message and its request, as far as there is room."""

import itertools
from dataclasses import replace

from .prompt import Kind, Part, Prompt, Table
from .request import joined


def fit(prompt: Prompt, n_most: int) -> Prompt:
    """Return a prompt that pins at most `n_most` tokens of its system message and its request, or half of that.

    If they have more, the newest request comes first, but a quarter is for the system message. What has no room becomes
    a part of the documents, and is counted in `n_unpinned`. Of a system message the start stays, of a request the
    question and the end. An older request, the last answer and the first lines of tables follow while there is room.
    """
    systems, requests = prompt.of_kind(Kind.SYSTEM), sorted(prompt.of_kind(Kind.REQUEST), key=_newest_first)
    newest = [part for part in requests if part.age == requests[0].age]
    n_system = sum(map(len, systems))
    n_reserved = n_system
    if n_system + sum(map(len, newest)) > n_most:
        # the document needs the cells more than what has no room anyway
        n_most //= 2
        n_reserved = min(n_system, n_most // 4)
    question = (prompt.question or range(0))[-max(1, n_most // 2) :]
    cut: dict[Part, list[Part]] = {}

    def keep(parts: list[Part], n_free: int) -> int:
        for part in parts:
            cut[part] = _cut_part(part, question, n_free)
            n_free -= len(cut[part][1])
        return n_free

    n_free = n_reserved + keep(newest, n_most - n_reserved)
    n_free = keep(systems + requests[len(newest) :], n_free)
    for part in prompt.of_kind(Kind.ANSWER):
        if len(part) > n_free:
            cut[part] = [replace(part, kind=Kind.DOCUMENT)]
    rest = sum(len(part) - len(cut[part][1]) for part in newest)
    if rest <= n_most:
        # it is read with the request, though it may be evicted
        cut |= {
            part: [replace(piece, kind=Kind.ANSWER) if piece.kind == Kind.DOCUMENT else piece for piece in cut[part]]
            for part in newest
        }
    parts = itertools.chain.from_iterable(cut.get(part, [part]) for part in prompt.parts)
    # what only stands at the end asks nothing
    wanted = systems + [part for part in newest if part.level]
    return replace(
        prompt,
        parts=joined(parts),
        question=question or None,
        tables=_tables_within(prompt, n_free),
        n_unpinned=prompt.n_unpinned + sum(len(part) - len(cut[part][1]) for part in wanted),
        n_asked=min(prompt.n_asked, n_most // 3),
    )


def _newest_first(part: Part) -> tuple[int, int, int]:
    return part.age, -part.level, -part.start


def _cut_part(part: Part, question: range, n_most: int) -> list[Part]:
    """Return what is of a document before the part that stays, that part, and what is behind it."""
    start = part.start if part.kind == Kind.SYSTEM else max(part.start, part.stop - n_most)
    if part.start <= question.start < start:
        start = question.start
    stop = min(part.stop, start + n_most)
    before, behind = Part(Kind.DOCUMENT, part.start, start), Part(Kind.DOCUMENT, stop, part.stop)
    return [before, replace(part, start=start, stop=stop), behind]


def _tables_within(prompt: Prompt, n_most: int) -> tuple[Table, ...]:
    """Return the tables whose first lines have room."""
    tables = []
    for table in prompt.tables:
        if table.header - table.start <= n_most:
            n_most -= table.header - table.start
            tables.append(table)
    return tuple(tables)
