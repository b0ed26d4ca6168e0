"""Text of tokens, piece by piece."""

import codecs
from collections.abc import Iterable, Iterator

from ..llamacpp.model import Model


def text_pieces(model: Model, tokens: Iterable[int], *, special: bool) -> Iterator[str]:
    """Yield the text of each token; a token that is only a part of a character yields an empty piece.

    What is left of a character that never ends is one more piece.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        yield decoder.decode(model.detokenize([token], special=special))
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest
