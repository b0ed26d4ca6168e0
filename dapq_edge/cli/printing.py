"""Tables and texts on stdout."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

# columns of what is no terminal, which has no edge
NO_EDGE = 10**7


def show(what: Table | Text) -> None:
    """Print a table or a text; no line of it is broken, unless it is in a terminal that is narrower."""
    console = Console(markup=False)
    if not console.is_terminal:
        console.width = NO_EDGE
    console.print(what, highlight=False)
