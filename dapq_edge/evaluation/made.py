"""Made facts of one form, and a document that has one of them on each page."""

import itertools
from collections.abc import Sequence

import numpy as np

from ..calibration.questions import Question
from ..documents.document import Document
from ..errors import UsageError

# towns that do not exist: a start and an end
STARTS = "Vel", "Tor", "Mar", "Ash", "Quin", "Bel", "Dro", "Kes", "Lun", "Pry"
ENDS = "mora", "wick", "stead", "haven", "dale", "ford", "mere", "gate", "burn", "ley"

# what was opened there; facts that are so many apart are about things of one kind
THINGS = "museum", "library", "harbour", "airport", "observatory", "theatre", "bridge", "windmill", "school", "brewery"

# characters of a page without its fact, at most
N_PAGE = 1300


def made_questions(rng: np.random.Generator) -> list[Question]:
    """Return facts about all towns, with questions in their own words."""
    made = []
    for i, (start, end) in enumerate(rng.permutation(list(itertools.product(STARTS, ENDS))).tolist()):
        thing, year = THINGS[i % len(THINGS)], str(1500 + int(rng.integers(500)))
        fact = f"The {thing} of {start}{end} was opened in the year {year}."
        made.append(Question(fact, f"In which year was the {thing} of {start}{end} opened?", year))
    return made


def made_document(haystack: str, questions: Sequence[Question], rng: np.random.Generator) -> Document:
    """Return a document with a page of the haystack for each question, with its fact somewhere on it.

    Pages end with a sentence. Raises `UsageError` if the haystack is too short.
    """
    pages, place = [], 0
    for i, question in enumerate(questions, start=1):
        border = haystack.find(". ", place)
        start = border + len(". ")
        if border < 0 or len(haystack) < start + N_PAGE:
            raise UsageError(
                f"{len(questions)}: the text has {len(haystack):,} characters, room for {i - 1}: give a longer "
                "`haystack`",
                param="pages",
            )
        stop = haystack.rfind(". ", start, start + N_PAGE) + 1 or start + N_PAGE
        cut = haystack.find(". ", start + int(rng.integers(N_PAGE // 6, N_PAGE // 2)), stop) + 1 or stop
        pages.append((f"p. {i}", f"{haystack[start:cut]} {question.fact}{haystack[cut:stop]}"))
        place = stop
    return Document.of("pages.pdf", pages, "\n\n")
