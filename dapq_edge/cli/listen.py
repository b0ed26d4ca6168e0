"""Sockets that listen."""

import socket

from ..errors import DapqError

# connections that wait to be accepted
BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises `DapqError` if the address cannot be used."""
    # asyncio sends small packets at once only if it knows that this is TCP
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise DapqError(f"cannot listen on {host}:{port}: {reason}") from error
    return listener
