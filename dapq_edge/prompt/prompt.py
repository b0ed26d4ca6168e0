"""A prompt in three parts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt: what comes before a document, the document, and the question after it.

    Attributes:
        head: Not empty, where there is a document to skim.
        body: The document.
        tail: The question, and what the template puts behind it.
        has_question: Whether `tail` says what is wanted of the document.
    """

    head: list[int]
    body: list[int]
    tail: list[int]
    has_question: bool = True

    @property
    def tokens(self) -> list[int]:
        """Tokens of the whole prompt."""
        return self.head + self.body + self.tail

    def __len__(self) -> int:
        return len(self.head) + len(self.body) + len(self.tail)
