"""Work in the time when nobody asks: while the user types."""

import contextlib
import threading
from collections.abc import Callable

from ..control import UNCONTROLLED, Control
from ..errors import DapqError
from ..llama import Llama
from ..reading.ahead import Ahead


class Idle:
    """One job at a time in a thread of its own, which has the model until it is stopped.

    Args:
        llama: The model.
    """

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self._thread: threading.Thread | None = None
        self._is_stopped = threading.Event()
        self._result: Ahead | None = None

    def start(self, job: Callable[[], Ahead]) -> None:
        """Begin a job that `Llama.control` stops."""
        self._is_stopped.clear()
        self._result = None
        # a program that ends does not wait for it
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    def _run(self, job: Callable[[], Ahead]) -> None:
        self._llama.control = Control(should_abort=self._is_stopped.is_set)
        try:
            # it was stopped, or what goes wrong is said when it is done for a question
            with contextlib.suppress(DapqError):
                self._result = job()
        finally:
            self._llama.control = UNCONTROLLED

    def stop(self) -> Ahead | None:
        """Give the model back, and return what the job made, None if it was not done."""
        if self._thread:
            self._is_stopped.set()
            self._thread.join()
            self._thread = None
        return self._result
