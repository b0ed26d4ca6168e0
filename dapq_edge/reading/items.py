"""Items of an answer: its lines without bullets, and when two of them are the same."""

import re
import unicodedata

# words of a line that says again what was asked, at least
N_ECHO = 4

_BULLET = re.compile(r"\s*(?:[-*+•·–—>#]+|\(?\d{1,3}[.)]|\(?[a-z][.)])(?:\s+|$)")  # noqa: RUF001
_EDGE = re.compile(r"^[\W_]+|[\W_]+$")
_NOTHING = re.compile(
    r"(?:none|n/?a|no|nothing|nil|null|unknown|not (?:found|mentioned|stated|specified|applicable|available)"
    r"|keine?|nichts|aucune?|rien|ningun[oa]|ninguno|nada"
    r"|none (?:is|are|of|in|was|were|found|mentioned)\b.*|there (?:is|are|was|were) (?:no|none|nothing|not)\b.*"
    r"|(?:the|this|that) (?:\w+ )?(?:text|part|passage|document|excerpt|section)(?: above)? "
    r"(?:does not|doesn't|do not|has no|has nothing|contains no|mentions no|is not)\b.*)",
    re.DOTALL,
)


def items_of(answer: str, request: str = "") -> list[str]:
    """Return what an answer lists, line by line, without bullets.

    Lines that only introduce others, that say that there is nothing, that came before, or that say again what was asked
    are left out.

    Args:
        answer: Of a model.
        request: What it was asked.
    """
    lines = [_without_bullet(line) for line in answer.splitlines() if line.strip()]
    asked, found = key_of(request), dict[str, str]()
    for i, line in enumerate(lines):
        key = key_of(line)
        is_heading = line.rstrip("*_ ").endswith(":") and i + 1 < len(lines)
        is_echo = key in asked and len(key.split()) >= N_ECHO
        if key and not is_heading and not is_echo and not _NOTHING.fullmatch(key):
            found.setdefault(key, line)
    return list(found.values())


def key_of(line: str) -> str:
    """Return what equal lines have in common: without bullets, case, spaces, and marks at the ends."""
    plain = " ".join(unicodedata.normalize("NFKC", _without_bullet(line)).casefold().split())
    return _EDGE.sub("", plain)


def repeats(answer: str) -> bool:
    """Return whether the last line of an answer that is complete says what one before it said: it goes round."""
    *lines, _ = answer.split("\n")
    keys = [key_of(line) for line in lines if line.strip()]
    return bool(keys) and keys[-1] in keys[:-1]


def _without_bullet(line: str) -> str:
    before = None
    while before != line:
        before, line = line, _BULLET.sub("", line, count=1) if _BULLET.match(line) else line
    return line.strip()
