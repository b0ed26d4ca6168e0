"""Reading ahead: the windows of documents, into the store, before anything is asked."""

from dataclasses import dataclass, field

from ..cache.kv_cache import KVCache
from ..cells import CHUNK
from ..control import UNCONTROLLED, Control
from ..errors import UsageError
from ..prompt import Prompt
from ..prompt.window import window_of
from .asking import bring_in
from .strategies import Skimming
from .windows import excerpts


@dataclass(frozen=True)
class Ahead:
    """Windows of documents that are in the store.

    Attributes:
        n_windows: All of them.
        n_stored: Those that were there before.
        faults: What went wrong with the store, one line each.
    """

    n_windows: int = 0
    n_stored: int = 0
    faults: list[str] = field(default_factory=list)


def store_windows(
    cache: KVCache, prompt: Prompt, skimming: Skimming, n_window: int, control: Control = UNCONTROLLED
) -> Ahead:
    """Read the windows of documents into a store; those that are there are not read again.

    A reading that is interrupted goes on where it was.

    Args:
        cache: Loses what it has.
        prompt: The documents, and a question of any kind.
        skimming: Says how they will be asked, and has the store.
        n_window: Tokens that are read at once, at most, see `Plan.n_window`.
        control: Watches and stops.

    Raises `UsageError` if there is no store, and what `control` raises.
    """
    store, evidence = skimming.store, skimming.evidence
    if store is None:
        raise UsageError("reading ahead needs a store", param="store")

    def read(tokens: list[int]) -> None:
        for start in range(0, len(tokens), CHUNK):
            control.check()
            cache.read(tokens[start : start + CHUNK])

    windows = excerpts([len(part) for part in prompt.documents], n_window)
    around, n_stored, n_done = window_of(prompt), 0, 0
    store.catalog.begin()
    with evidence.depth(cache):
        for window in windows:
            tokens, _ = window.tokens(prompt, around)
            is_stored = store.has(evidence.key, tokens)
            if not is_stored:
                bring_in(cache, tokens, evidence, read, store)
            n_stored += is_stored
            n_done += sum(map(len, window.chunks))
            control.report(n_done, len(prompt.body))
    return Ahead(len(windows), n_stored, store.catalog.take_faults())
