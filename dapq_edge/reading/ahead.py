"""Reading ahead: the windows of a document, into the store, before anything is asked."""

from dataclasses import dataclass

from ..cells import CHUNK
from ..control import UNCONTROLLED, Control
from ..errors import UsageError
from ..prompt import Prompt
from ..prompt.window import window_of
from .asking import bring_in
from .engine import Engine
from .plan import N_SKIM
from .skimming import skimming_of
from .windows import N_OVERLAP, SIZES, excerpts


@dataclass(frozen=True)
class Ahead:
    """Windows of a document that are in the store.

    Attributes:
        n_windows: All of them.
        n_stored: Those that were there before.
        faults: What went wrong with the store, one line each.
    """

    n_windows: int
    n_stored: int
    faults: list[str]


def read_ahead(engine: Engine, prompt: Prompt, control: Control = UNCONTROLLED) -> Ahead:
    """Read the windows of a document into the engine's store; those that are there are not read again.

    A reading that is interrupted goes on where it was.

    Args:
        engine: Its sequence is lost.
        prompt: The document, and a question of any kind behind it.
        control: Watches and stops.

    Raises `UsageError` if there is no store, and what `control` raises.
    """
    store = engine.store
    if store is None:
        raise UsageError("reading ahead needs a store", param="store")
    evidence = skimming_of(engine.model, engine.heads, engine.skim, store).evidence
    windows = excerpts([len(part) for part in prompt.documents], SIZES[0] + N_OVERLAP)
    around, n_stored, n_done = window_of(prompt), 0, 0
    engine.open(N_SKIM + CHUNK + len(around.head))
    store.catalog.begin()
    with evidence.depth(engine.cache):
        for window in windows:
            control.check()
            tokens, _ = window.tokens(prompt, around)
            _, is_stored = bring_in(engine.cache, tokens, evidence, engine.cache.read, store)
            n_stored += is_stored
            n_done += sum(map(len, window.chunks))
            control.report(n_done, len(prompt.body))
    return Ahead(len(windows), n_stored, store.catalog.take_faults())
