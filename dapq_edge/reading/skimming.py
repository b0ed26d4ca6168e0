"""Ways to skim a document that a model has."""

from ..eviction.heads import HeadProfile
from ..llamacpp.model import Model
from ..store.windows import WindowStore
from .evidence import NEUTRAL, Guess, QueryHeads
from .lexical import Matches, match
from .plan import SkimMode
from .strategies import Skimming


def skimming_of(model: Model, heads: HeadProfile | None, mode: SkimMode, store: WindowStore | None = None) -> Skimming:
    """Return how to skim: by query heads, if the profile has some; otherwise all of a document, by a guess."""
    if heads is None or not heads.query:
        return Skimming(Guess(heads), store=store)

    def search(question: list[int], texts: list[list[int]]) -> Matches:
        spelled = (model.detokenize(tokens).decode("utf-8", "replace") for tokens in (question, *texts))
        return match(next(spelled), list(spelled))

    return Skimming(QueryHeads(heads.query, model.tokenize(NEUTRAL)), search, mode == SkimMode.AUTO, store)
