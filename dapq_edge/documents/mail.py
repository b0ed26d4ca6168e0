"""A mail."""

from email import message_from_binary_file
from email.message import EmailMessage
from email.policy import default
from typing import Any, BinaryIO

from ..errors import DapqError
from .charset import decode
from .child import Task
from .extract import Extract, listed
from .html import add_html_bytes

HEADERS = ("From", "To", "Cc", "Date", "Subject")


def extract(file: BinaryIO, task: Task, result: Extract) -> None:
    """Read who wrote when about what, and the text; files that are attached are named."""
    result.between = "\n\n"
    message = message_from_binary_file(file, policy=default)
    if not isinstance(message, EmailMessage) or not message.keys():
        raise DapqError("is a mail that cannot be read: it has no header")
    lines = [f"{name}: {' '.join(str(message[name]).split())}" for name in HEADERS if message[name]]
    if lines:
        result.add("header", "\n".join(lines))
    body: Any = message.get_body(("plain", "html"))
    if body is not None:
        data = body.get_payload(decode=True) or b""
        charset = str(body.get_content_charset() or "")
        if body.get_content_subtype() == "html":
            add_html_bytes(result, data, charset, "text")
        else:
            text, notes = decode(data, charset)
            result.notes += notes
            result.add("text", text)
    names = [part.get_filename() or part.get_content_type() for part in message.iter_attachments()]
    if names:
        result.notes.append(f"attached files are not read ({listed(names)})")
