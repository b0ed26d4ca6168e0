"""The parts of a text that say what is wanted, and those of which it is wanted. On characters, without a model.

People and programs write a question behind a document, before it, between two of them, before thanks and instructions,
under a heading or in a tag. Each paragraph gets a level by its own words; where it stands decides the rest.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

# tokens at either end of a text among which its request is looked for
ZONE = 256

# a last paragraph of so many tokens at most may be a question as a whole
MAX_PARAGRAPH = 512

# tokens at the end of a text that has neither paragraphs nor lines nor sentences
N_LAST = 64

# a paragraph is short if it has at most so many tokens, and half as many as most others
SHORT = 24

# tokens of a paragraph that asks something although its last sentence does not
MAX_ASKING = 64

# words of a question that says nothing by itself ("And why?"), at most
MAX_WORDS = 3

# questions between documents at most; a text with more of them is a text about questions
MAX_BETWEEN = 3

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")
_RULE = re.compile(r"\s*([-=*_#~`\"'+])\1{2,}\s*\w*\s*$")
_LABEL = re.compile(
    r"\s*[#>*\-\[(\s]*(?:(?:my|the|user|user's|current|final|new)\s+)?"
    r"(?:(?P<asks>questions?|q|query|frage|pregunta|domanda|pergunta)"
    r"|(?P<tells>task|instructions?|request|rules|prompt|aufgabe|tarefa)"
    r"|(?P<document>contexts?|documents?|texts?|passages?|sources?|articles?|input|content|background|data|kontext"
    r"|dokument|texte|texto|testo|documento)"
    r"|(?P<border>answers?|a|responses?|output|assistant|examples?|notes?|antwort|réponse|respuesta))"
    r"\s*(?:information)?\s*(?:\d+)?\s*[\])*]*\s*(?::|$)",
    re.IGNORECASE,
)
_TAG = re.compile(r"\s*<([A-Za-z][\w:-]*)(?:\s[^<>]*)?>")
_END_TAG = re.compile(r"</[A-Za-z][\w:-]*>\s*$")
_QUESTION = re.compile(r"[?？؟][\"'”’»)\]*_]*\s*(?:</[^<>]*>)?\s*$")  # noqa: RUF001
_BORDER = re.compile(r"[\r\n]+|(?<=[.!?。？！؟])[\"'”’)]*\s+|(?<=[。？！])")  # noqa: RUF001
_TELLS = re.compile(
    r"(?:please|kindly|answer|summari[sz]e|explain|describe|list|tell|give|write|translate|find|extract|compare|name|"
    r"state|use|return|respond|reply|read|quote|classify|rewrite|identify|determine|calculate|count|show|make|create|"
    r"generate|provide|analy[sz]e|review|check|fix|convert|based on|according to|using|given|i want|i need|"
    r"i would like|i'd like|let me know|you are|you must|do not|don't|only|"
    r"what|who|whom|whose|which|when|where|why|how|"
    r"bitte|beantworte|fasse|erkläre|nenne|übersetze|schreibe|résume|explique|réponds|traduis|"
    r"resume|explica|responde|traduce|riassumi|spiega|rispondi|traduci|responda|traduza)\b",
    re.IGNORECASE,
)
_SPEAKS = re.compile(
    r"(?:i|i'm|i've|my|we|we're|our|here|below|above|attached|this is|the following|ich|wir|hier|je|nous|yo|io)\b",
    re.IGNORECASE,
)
_REFERS = re.compile(
    r"\b(?:it|its|it's|they|them|their|theirs|he|him|his|she|her|hers|this|these|those|again|same|former|latter|previous|"
    r"else|also|above|(?:of|about|for|in|with|by|from|to|is|was|does|did|and) that|"
    r"er|sie|ihn|ihm|ihr|ihre|seine?|deren|dessen|diese[rsnm]?|dort|davon|damit|"
    r"il|elle|ils|elles|lui|leur|cela|celui|celle|él|ella|ellos|su|sus|eso|esto|lui|lei|suo|sua)\b"
    r"|[它他她这那其]|それ|これ|その|この|그것|이것",
    re.IGNORECASE,
)
_BULLET = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s+")


@dataclass(frozen=True)
class Span:
    """Characters `start` to `stop` (exclusive) of a text.

    Attributes:
        start: The first one.
        stop: The one behind the last.
        is_request: Whether it says what is wanted; otherwise it is of a document.
        level: How surely: 2 if it is a question, 1 if it tells to do something.
    """

    start: int
    stop: int
    is_request: bool
    level: int = 0


@dataclass(frozen=True)
class _Block:
    """A paragraph, or a line with a mark and what follows it."""

    start: int
    stop: int
    n_tokens: int
    mark: str = ""
    level: int = 0
    is_short: bool = False


def split_text(text: str, size: Callable[[int, int], int], *, must_ask: bool = False) -> list[Span]:
    """Return the spans of a long text, from its first character to its last.

    Line breaks before a span belong to it.

    Args:
        text: Of any length.
        size: Returns how many tokens the characters from one place to another are.
        must_ask: Whether the last paragraph is taken for the request if no other one is.
    """
    blocks = _with_levels(text, _blocks(text, size))
    n_tail = _edge(blocks[::-1], is_end=True, look_past=True)
    is_sure = any(block.level == 2 for block in blocks[len(blocks) - n_tail :])
    n_lead = _edge(blocks[: len(blocks) - n_tail], is_end=False, look_past=not is_sure)
    lead, tail = set(range(n_lead)), set(range(len(blocks) - n_tail, len(blocks)))
    chosen = lead | tail
    if not any(blocks[i].level == 2 for i in chosen):
        chosen |= _between(blocks)
    if not any(blocks[i].level for i in chosen):
        # a short paragraph at the end may be all that says what is wanted
        last = max((i for i, block in enumerate(blocks) if block.n_tokens), default=0)
        chosen = tail | {last} if must_ask else set()
    elif not any(blocks[i].level for i in tail):
        chosen -= tail
    return _spans(blocks, chosen)


def level_of(text: str) -> int:
    """Return how surely a short text says what is wanted, see `Span`."""
    sentences = _sentences(text)
    if any(_QUESTION.search(sentence) for sentence in sentences):
        return 2
    return int(any(_TELLS.match(_BULLET.sub("", sentence).lstrip(" *_#>\"'")) for sentence in sentences))


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in _BORDER.split(text) if sentence.strip()]


def refers_back(text: str) -> bool:
    """Return whether a question speaks of what was said before: by a pronoun, or as it has hardly words of its own."""
    return bool(_REFERS.search(text)) or len(text.split()) <= MAX_WORDS


def question_in(text: str) -> tuple[int, int]:
    """Return the first and the last character of the part of a request that asks: its questions, or all of it."""
    ends = [border.start() for border in _BORDER.finditer(text)]
    sentences = [(start, stop) for start, stop in pairwise([0, *ends, len(text)]) if text[start:stop].strip()]
    asking = [(start, stop) for start, stop in sentences if _QUESTION.search(text[start:stop])]
    first, last = (asking or sentences or [(0, 1)])[0][0], (asking or sentences or [(0, 1)])[-1][1]
    # the words alone, without a tag or a label
    for mark in (_TAG, _LABEL):
        found = mark.match(text[first:last])
        first += found.end() if found and found.end() < len(text[first:last].rstrip()) else 0
    found = _END_TAG.search(text[first:last])
    words = text[first : first + found.start() if found and found.start() else last]
    return first + len(words) - len(words.lstrip()), first + max(1, len(words.rstrip())) - 1


def _blocks(text: str, size: Callable[[int, int], int]) -> list[_Block]:
    starts = _starts(text)
    blocks = [_Block(start, stop, size(start, stop), mark) for (start, mark), (stop, _) in pairwise(starts)]
    # without paragraphs, lines are what there is, or sentences
    for place in (-1, 0):
        if blocks[place].n_tokens > MAX_PARAGRAPH:
            block = blocks[place]
            blocks[place : place + 1 or None] = _divide(block, _finer(text, block), size)
    # a question may be the line after a document, or before it
    for place, end in ((-1, -2), (0, 1)):
        block, lines = blocks[place], _lines(text, blocks[place])
        if (
            len(lines) > 2
            and block.n_tokens > MAX_ASKING
            and level_of(text[slice(*sorted((lines[end], lines[place])))])
        ):
            blocks[place : place + 1 or None] = _divide(block, [block.start, lines[end], block.stop], size)
    return blocks


def _divide(block: _Block, places: list[int], size: Callable[[int, int], int]) -> list[_Block]:
    first, *rest = [_Block(start, stop, size(start, stop)) for start, stop in pairwise(places)]
    return [replace(first, mark=block.mark), *rest]


def _starts(text: str) -> list[tuple[int, str]]:
    """Return where blocks start, and their marks; the last place is the end of the text."""
    starts, place, is_open = [(0, "")], 0, False
    for line in _LINE.finditer(text):
        words = line[0].rstrip()
        if words:
            mark = _mark(words)
            if mark or not is_open:
                starts.append((place, mark))
            place = line.start() + len(words)
        is_open = bool(words) and not (_RULE.match(words) or _END_TAG.search(words))
    starts.append((len(text), ""))
    # a text that begins with a mark has two starts at 0
    return [start for start, after in pairwise([*starts, (-1, "")]) if start[0] != after[0]]


def _mark(line: str) -> str:
    if _RULE.match(line):
        return "border"
    tag = _TAG.match(line)
    label = _LABEL.match(tag[1] if tag else line)
    return (label.lastgroup or "") if label else "border" * bool(tag)


def _lines(text: str, block: _Block) -> list[int]:
    """Return the borders of the lines of a block."""
    part = text[block.start : block.stop]
    places = [match.start() for match in re.finditer(r"[\r\n]+(?=[^\r\n])", part)]
    return [block.start, *(block.start + place for place in places if part[:place].strip()), block.stop]


def _finer(text: str, block: _Block) -> list[int]:
    """Return the borders of the lines of a block, or of its sentences if it is one line, or its end."""
    lines = _lines(text, block)
    if len(lines) > 2:
        return lines
    part = text[block.start : block.stop]
    places = [match.start() for match in _BORDER.finditer(part) if match.start() > 0 and match.end() < len(part)]
    places = places or [len(part) - len(part) * N_LAST // block.n_tokens]
    return [block.start, *(block.start + place for place in places), block.stop]


def _with_levels(text: str, blocks: list[_Block]) -> list[_Block]:
    n_short = min(SHORT, median(block.n_tokens for block in blocks) / 2)
    made = []
    for i, block in enumerate(blocks):
        words = text[block.start : block.stop].strip()
        sentences = _sentences(words)
        level = level_of(sentences[0]) % 2 if sentences else 0
        # the last paragraph may ask somewhere in the middle
        whole = block.n_tokens <= MAX_ASKING or (i == len(blocks) - 1 and block.n_tokens <= MAX_PARAGRAPH)
        if block.mark == "asks" or (sentences and level_of(" ".join(sentences if whole else sentences[-1:])) == 2):
            level = 2
        elif block.mark == "tells":
            level = 1
        is_short = block.n_tokens <= n_short
        if is_short and _SPEAKS.match(words):
            level = max(level, 1)
        # a block inside of a token is none
        made.append(replace(block, level=level if block.n_tokens else 0, is_short=is_short))
    return made


def _edge(blocks: list[_Block], *, is_end: bool, look_past: bool) -> int:
    """Return how many of `blocks`, from the edge of a text inwards, are of its request."""
    n_chosen = n_tokens = 0
    is_joined = True
    for i, block in enumerate(blocks):
        # the first one may be long: a question, or a list of instructions
        n_tokens += block.n_tokens if i else 0
        if block.mark == "document" or max(n_tokens, block.n_tokens - ZONE) > ZONE:
            break
        is_sure = any(chosen.level == 2 for chosen in blocks[:n_chosen])
        is_joined = is_joined and (block.level > 0 or (block.is_short and not is_sure))
        if is_joined:
            # a title is no request, a remark at the end is a part of it
            n_chosen = i + 1 if block.level or is_end else n_chosen
        elif not look_past or is_sure:
            break
        elif block.level == 2 and block.n_tokens <= ZONE // 2:
            return i + 1
    return n_chosen


def _between(blocks: list[_Block]) -> set[int]:
    """Return questions that stand alone between documents."""
    alone = {i for i, block in enumerate(blocks) if block.level == 2 and block.n_tokens <= MAX_ASKING}
    return alone if len(alone) <= MAX_BETWEEN else set()


def _spans(blocks: list[_Block], chosen: set[int]) -> list[Span]:
    spans: list[Span] = []
    for i, block in enumerate(blocks):
        is_request = i in chosen
        if spans and spans[-1].is_request == is_request:
            last = spans.pop()
            spans.append(Span(last.start, block.stop, is_request, max(last.level, block.level * is_request)))
        else:
            spans.append(Span(block.start, block.stop, is_request, block.level * is_request))
    return spans
