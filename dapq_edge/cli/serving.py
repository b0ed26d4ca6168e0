"""Runs the server."""

import os
from pathlib import Path
from types import FrameType

from rich.console import Console

from ..chat.library import Library
from ..errors import DapqError
from ..llamacpp.log import captured_log
from ..planning.ram import MIB
from .listen import listen
from .running import check_budget, check_model, open_llama, say
from .serve import Options


def serve(options: Options) -> int:
    """Serve until the process is told to end; returns the exit code."""
    check_budget(options.eviction)
    check_model(options.model)
    try:
        import uvicorn

        from ..server.answering import GRACE
        from ..server.app import create_app
        from ..server.limits import is_loopback
        from ..server.worker import Worker
    except ImportError as error:
        raise DapqError(f"the server needs {error.name}: run EXTRAS=server ./scripts/setup.sh") from error
    console = Console(stderr=True)
    # as an address has it
    host = options.host.removeprefix("[").removesuffix("]")
    with captured_log(), listen(host, options.port) as listener:
        llama = open_llama(options.model, options.eviction, options.store, console)
        host, port = listener.getsockname()[:2]
        worker = Worker(llama, n_waiting=options.queue, timeout=options.timeout, say=lambda line: say([line], console))
        store = llama.engine.store
        app = create_app(
            worker,
            library=Library(store.documents if store else None),
            model=options.alias or Path(llama.model_path).name,
            api_key=options.api_key or os.environ.get("LLAMA_API_KEY"),
            max_body=int(options.max_body * MIB),
            any_model=options.any_model,
            allowed_hosts=options.allowed_hosts if is_loopback(host) or options.allowed_hosts else None,
            cors=options.cors,
            n_predict=options.predict,
        )

        class Server(uvicorn.Server):
            """Ends the running answer first when it is told to end."""

            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                # the answer that is running ends with an error, so that its client knows
                worker.stop()
                super().handle_exit(sig, frame)

        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        console.print(f"listening on {url}", highlight=False)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=GRACE, h11_max_incomplete_event_size=2**16
        )
        try:
            Server(config).run(sockets=[listener])
        finally:
            worker.close()
    return 0
