"""Lexical search: which texts share words with a question (BM25), in any script."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# characters of a word that are looked at; what is longer is no word of a language
MAX_WORD = 64

# scripts that put no spaces between words: pairs of characters stand for them
_DENSE = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_DENSE}]+|[^\W_{_DENSE}]+")
_IS_DENSE = re.compile(rf"[{_DENSE}]")


@dataclass(frozen=True)
class Matches:
    """Words of a question in some texts.

    Attributes:
        scores: How many rare words each text shares with it, by BM25: float32 [texts].
        coverage: The share of its words that each text has, rare ones counting more, 0 to 1: float32 [texts].
    """

    scores: npt.NDArray[np.float32]
    coverage: npt.NDArray[np.float32]


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    found = []
    for run in _WORD.findall(text.casefold()):
        if _IS_DENSE.match(run):
            found += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
        else:
            found.append(run[:MAX_WORD])
    return found


def match(question: str, texts: Sequence[str]) -> Matches:
    """Return what some texts share with a question; nothing if it has no words, or they have none."""
    # it takes a quarter of a second to load
    import bm25s

    asked, corpus = words(question), [words(text) for text in texts]
    nothing = np.zeros(len(texts), dtype=np.float32)
    if not asked or not any(corpus):
        return Matches(nothing, nothing)
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    return Matches(index.get_scores(asked), _coverage(set(asked), [set(text) for text in corpus]))


def _coverage(asked: set[str], texts: Sequence[set[str]]) -> npt.NDArray[np.float32]:
    counts = Counter(word for text in texts for word in text & asked)
    # the weight of a word in BM25; one that stands nowhere has the largest
    weights = {word: np.log(1 + (len(texts) - counts[word] + 0.5) / (counts[word] + 0.5)) for word in asked}
    shared = [sum(weights[word] for word in text & asked) for text in texts]
    coverage: npt.NDArray[np.float32] = np.array(shared, dtype=np.float32) / np.float32(sum(weights.values()))
    return coverage
