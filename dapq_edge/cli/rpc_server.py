"""`dapq-edge rpc-server`: lend this machine to another one."""

import signal
from dataclasses import dataclass

from .command import Command
from .options import option
from .options.arguments import MAX_PORT, whole
from .options.model import threads_option


@dataclass(frozen=True)
class Options:
    """Devices that are lent, and their address."""

    host: str = option("-H", "--host", default="127.0.0.1", metavar="IP", help="address (default: 127.0.0.1)")
    port: int = option(
        "-p", "--port", type=whole(1, MAX_PORT), default=50052, metavar="N", help="port (default: 50052)"
    )
    device: str = option(
        "-d", "--device", default="", metavar="NAME,...", help="devices to lend (default: the GPUs, else the CPU)"
    )
    threads: int = threads_option()


def run(options: Options) -> int:
    """Serve until the process ends."""
    from ..llamacpp.rpc import serve
    from .listen import listen
    from .running import n_threads

    # llama.cpp waits for connections, where Python cannot raise KeyboardInterrupt
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # llama.cpp only prints that it cannot
    listen(options.host, options.port).close()
    names = options.device.split(",") if options.device else ()
    serve(options.host, options.port, n_threads(options.threads), names)
    return 0


COMMAND = Command(
    "rpc-server",
    "lend this machine to another one, for --rpc there",
    Options,
    "rpc_server:run",
    description="Serve the devices of this machine to another one, as llama.cpp's rpc-server. Only for networks that "
    "you trust: nothing is encrypted or protected.",
)
