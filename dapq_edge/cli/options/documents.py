"""Options of the documents that are read."""

from dataclasses import dataclass
from typing import Any

from ...documents.read import Reading as FileReading
from .arguments import option

# what can be given, in one line of --help
KINDS = "text, Markdown, HTML, PDF, docx, pptx, xlsx, epub or eml"


@dataclass(frozen=True)
class Files:
    """Options of how files are read."""

    password: str = option("--password", default="", metavar="TEXT", help="password of PDFs that are encrypted")
    ocr: bool = option("--ocr", action="store_true", help="read pages of PDFs that are pictures with Tesseract")

    @property
    def reading(self) -> FileReading:
        """The options, for `dapq_edge.documents`."""
        return FileReading(self.password, self.ocr)


@dataclass(frozen=True)
class Documents(Files):
    """Options of which documents are read, and how."""

    doc: list[str] = option(
        "--doc",
        action="append",
        default=[],
        metavar="FILE",
        help=f"{KINDS}; a folder, a pattern, or - for stdin; can be given again",
    )


def whole_option(noun: str = "a document that does") -> Any:
    """Declare the field of --whole. noun: what does not fit, in its help."""
    return option(
        "--whole",
        choices=["auto", "on", "off"],
        default="auto",
        help=f"ask each window of {noun} not fit the budget, and join the answers: if the question asks "
        "for all and finds no place that stands out, always, or never (default: auto)",
    )
