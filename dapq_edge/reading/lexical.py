"""Lexical search: which texts share words with a question (BM25), in any script."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# characters of a word that are looked at; what is longer is no word of a language
MAX_WORD = 64

# scripts that put no spaces between words: pairs of characters stand for them
_DENSE = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_DENSE}]+|[^\W_{_DENSE}]+")
_IS_DENSE = re.compile(rf"[{_DENSE}]")


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    found = []
    for run in _WORD.findall(text.casefold()):
        if _IS_DENSE.match(run):
            found += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
        else:
            found.append(run[:MAX_WORD])
    return found


def lexical_scores(question: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return how many rare words each text shares with a question, by BM25: float32 [texts]; 0 if none."""
    # it takes a quarter of a second to load
    import bm25s

    asked, corpus = words(question), [words(text) for text in texts]
    if not asked or not any(corpus):
        return np.zeros(len(texts), dtype=np.float32)
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    scores: npt.NDArray[np.float32] = index.get_scores(asked)
    return scores
