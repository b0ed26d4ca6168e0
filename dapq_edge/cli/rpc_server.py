"""`dapq-edge rpc-server`: lend this machine to another one."""

import argparse
import signal

from ..rpc import serve
from .model import find_threads
from .serve import listen


def run(args: argparse.Namespace) -> int:
    # llama.cpp waits for connections, where Python cannot raise KeyboardInterrupt
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # llama.cpp only prints that it cannot
    listen(args.host, args.port).close()
    serve(args.host, args.port, find_threads(args), args.device.split(",") if args.device else ())
    return 0
