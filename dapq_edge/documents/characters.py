"""Characters that stand in files, but in no word of a question."""

import re
import unicodedata

LIGATURES = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}

_LINE_END = re.compile(r"\r\n?")
_SOFT_HYPHEN = re.compile(r"\u00ad(?:[ \t]*\n[ \t]*)?")
_HALF = re.compile(r"[\ud800-\udfff]")
_RARE = re.compile(r"[\0\r\u00ad\ud800-\udfff\ufb00-\ufb06]")


def tidy(text: str) -> str:
    """Return a text with plain letters for ligatures, whole words, line feeds, and nothing that is no character."""
    if not _RARE.search(text):
        return text
    text = _LINE_END.sub("\n", text.replace("\0", ""))
    text = _SOFT_HYPHEN.sub("", text)
    return _HALF.sub("\ufffd", text).translate(LIGATURES)
