"""Numbers of things, in words."""


def count(n: int, what: str) -> str:
    """Return a number and what it counts, in the plural unless it is one: "1 window", "2,048 tokens"."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def have(n: int) -> str:
    """Return the verb behind a number of things."""
    return "has" if n == 1 else "have"
