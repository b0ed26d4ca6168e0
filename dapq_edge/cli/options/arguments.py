"""Conversion from dataclasses to argparse and back, and the types of values."""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# no number of llama.cpp is larger
MAX_INT = 2**31 - 1

# the last port of an address
MAX_PORT = 65535


def option(*flags: str, is_source: bool = False, **settings: Any) -> Any:
    """Declare a field of an options class.

    Args:
        flags: As for `argparse.add_argument`; without a dash, it is positional.
        is_source: Whether it is one of those of which exactly one is needed.
        settings: The rest, as for `argparse.add_argument`.
    """
    return field(metadata={"flags": flags, "is_source": is_source, "settings": settings})


def group(title: str, **changes: dict[str, Any]) -> Any:
    """Declare a field that holds other options, with a title of their own in --help.

    Args:
        title: Of the group.
        changes: For fields of the group, other settings for `argparse.add_argument`.
    """
    return field(metadata={"title": title, "changes": changes})


def add_options(parser: argparse._ActionsContainer, options: type, **changes: dict[str, Any]) -> None:
    """Add the options of a class to a parser."""
    sources: argparse._ActionsContainer | None = None
    for part in fields(options):
        if "title" in part.metadata:
            title = parser.add_argument_group(part.metadata["title"])
            add_options(title, _class_of(part.type), **part.metadata["changes"])
        else:
            container = parser
            if part.metadata["is_source"]:
                container = sources = sources or parser.add_mutually_exclusive_group(required=True)
            flags, settings = part.metadata["flags"], part.metadata["settings"] | changes.get(part.name, {})
            if flags[0].startswith("-"):
                settings["dest"] = part.name
            container.add_argument(*flags, **settings)


def read_options(options: type[T], namespace: argparse.Namespace) -> T:
    """Return the options of a class, as they were parsed."""
    values = {
        part.name: read_options(_class_of(part.type), namespace)
        if "title" in part.metadata
        else getattr(namespace, part.name)
        for part in fields(options)  # type: ignore[arg-type]
    }
    return options(**values)


def _class_of(kind: Any) -> type:
    assert is_dataclass(kind)
    assert isinstance(kind, type)
    return kind


def whole(least: int, most: int = MAX_INT, others: Sequence[int] = ()) -> Callable[[str], int]:
    """Return a type for a whole number from `least` to `most`, or one of `others`."""

    def number(text: str) -> int:
        value = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
        if value is not None and (least <= value <= most or value in others):
            return value
        # an end that nobody comes near need not be said
        end = f" to {most}" if most < MAX_INT or (value or 0) > most else ""
        allowed = " or ".join([f"a whole number from {least}{end}", *map(str, others)])
        raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")

    return number


def positive_or(*others: int) -> Callable[[str], int]:
    """Return a type for a whole number from 1, or one of `others`."""
    return whole(1, others=others)


def names(text: str) -> list[str]:
    """Read names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def positive(text: str) -> float:
    """Read a number above 0."""
    value = not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def not_negative(text: str) -> float:
    """Read a number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return value
