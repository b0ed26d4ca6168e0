"""Messages to tokens, and in them what is wanted (the request) and what it is wanted of (the document)."""

from .prompt import QUESTION, Kind, Part, Prompt, Table

__all__ = ["QUESTION", "Kind", "Part", "Prompt", "Table"]
