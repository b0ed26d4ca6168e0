"""`dapq-edge serve`: an OpenAI-compatible server."""

import argparse
import os
import socket
from pathlib import Path
from types import FrameType

from rich.console import Console

from .. import native
from ..errors import DapqError
from ..memory import MIB
from .model import check_eviction_options, check_model_options, load_llama

# connections that wait to be accepted
BACKLOG = 128

# seconds that running requests get to end
GRACE = 2


def run(args: argparse.Namespace) -> int:
    check_eviction_options(args)
    check_model_options(args)
    try:
        import uvicorn

        from ..server.app import create_app
        from ..server.engine import Engine
        from ..server.limits import is_loopback
    except ImportError as error:
        raise DapqError(f"the server needs {error.name}: run EXTRAS=server ./scripts/setup.sh") from error
    console = Console(stderr=True)
    with native.captured_log(), listen(args.host, args.port) as listener:
        llama = load_llama(args, console)
        host, port = listener.getsockname()[:2]
        engine = Engine(llama, n_waiting=args.queue, timeout=args.timeout)
        app = create_app(
            engine,
            model=args.alias or Path(llama.model_path).name,
            api_key=args.api_key or os.environ.get("LLAMA_API_KEY"),
            max_body=int(args.max_body * MIB),
            is_local=is_loopback(host),
        )

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                # the answer that is running ends with an error, so that its client knows
                engine.stop()
                super().handle_exit(sig, frame)

        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        console.print(f"listening on {url}", highlight=False)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=GRACE, h11_max_incomplete_event_size=2**16
        )
        try:
            Server(config).run(sockets=[listener])
        finally:
            engine.close()
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `DapqError` if the address cannot be used."""
    # asyncio sends small packets at once only if it knows that this is TCP
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        errno = getattr(error, "errno", None) or 0
        reason = os.strerror(errno) if errno > 0 else error
        raise DapqError(f"cannot listen on {host}:{port}: {reason}") from error
    return listener
