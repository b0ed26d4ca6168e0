"""Sources of an answer in the terminal."""

from collections.abc import Sequence

from rich.console import Console

from ..chat.sources import Coverage, Source
from .running import say


def say_sources(sources: Sequence[Source], coverage: Coverage | None, console: Console) -> None:
    """Print the passages that an answer was read from, and what was read at all."""
    for line in dict.fromkeys(source.line for source in sources):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    say([coverage.line] if coverage else [], console)
