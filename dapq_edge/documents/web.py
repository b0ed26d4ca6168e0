"""An HTML file."""

from typing import BinaryIO

from .child import Task
from .extract import Extract
from .html import add_html_bytes


def extract(file: BinaryIO, task: Task, result: Extract) -> None:
    """Read the file, a part for each heading."""
    result.between = ""
    add_html_bytes(result, file.read(), task.charset)
