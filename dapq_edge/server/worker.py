"""The model and its one thread: requests wait in a bounded queue, and can be cancelled at any moment."""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..control import UNCONTROLLED, Control
from ..counts import count
from ..errors import AbortedError, DapqError
from ..llama import Llama
from .metrics import Metrics

# tasks that wait until nobody asks, at most; the oldest ones are dropped
N_IDLE = 8

# given the model, it makes one result or many
Task = Callable[[Llama], Generator[Any, None, None]]


@dataclass(frozen=True, eq=False)
class IdleWork:
    """Something to do when no request is there. document: name of the one that is read."""

    document: str
    do: Callable[[Llama], Any]


class BusyError(DapqError):
    """Too many requests wait."""


class StoppedError(DapqError):
    """The server stops."""


class RequestTimeoutError(DapqError):
    """A request took too long."""


class Worker:
    """Runs tasks one after the other in a thread of its own.

    n_waiting: tasks that may wait; more raise `BusyError`. timeout: seconds from the request to its end. say: told what
    goes wrong without a request, or is no failure of one: one line each.
    usage, n_ctx: of the model after its last token; reading: tokens of the prompt that were read, and all of them;
    reading_document: name of the document that is read now while nobody asks, or None.
    """

    def __init__(
        self, llama: Llama, *, n_waiting: int, timeout: float, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._llama = llama
        self.say = say
        self._n_waiting = n_waiting
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llama")
        self._n_tasks = 0
        self._idle: deque[IdleWork] = deque(maxlen=N_IDLE)
        self._is_idle = False
        self._is_stopped = threading.Event()
        self.metrics = Metrics()
        self.usage = llama.usage
        self.reading, self.n_ctx = (0, 0), llama.n_ctx()
        self.reading_document: str | None = None
        self.metrics.set_usage(self.usage, self.usage)
        self._counted = llama.timings

    @property
    def is_busy(self) -> bool:
        """True if a request is answered, or waits."""
        return self._n_tasks > 0

    def stop(self) -> None:
        """End the running task, and refuse new ones."""
        self._is_stopped.set()

    def close(self) -> None:
        """Wait for the worker, and close the model."""
        self.stop()
        self._thread.shutdown(wait=True)
        self._llama.close()
        for fault in self._llama.engine.take_faults():
            self.say(fault)

    async def results(self, task: Task) -> AsyncGenerator[Any, None]:
        """Yield what a task makes. Closing the iterator cancels the task, waiting or running.

        Raises `BusyError`, `StoppedError`, `RequestTimeoutError`, and what the task raises.
        """
        if self._is_stopped.is_set():
            raise StoppedError("the server is stopping")
        if self._n_tasks > self._n_waiting:
            raise BusyError(f"{count(self._n_waiting, 'request')} already waiting: try again later")
        run = _Run(self, task, asyncio.get_running_loop(), time.monotonic() + self._timeout)
        self._count(1)
        future = self._thread.submit(run)
        future.add_done_callback(lambda _: _call_soon(run.loop, self._count, -1))
        try:
            async for result in run.results():
                yield result
        finally:
            run.is_cancelled.set()
            future.cancel()

    def _count(self, n: int) -> None:
        self._n_tasks += n
        self.metrics.set_tasks(self._n_tasks)
        self._use_idle_time()

    def when_idle(self, work: IdleWork) -> None:
        """Do something when no request is there. One that comes interrupts it, and it is begun again behind it."""
        self._idle.append(work)
        self._use_idle_time()

    @property
    def unread(self) -> list[str]:
        """Names of the documents that are read when nobody asks, the next one first."""
        return [work.document for work in reversed(self._idle)]

    def _use_idle_time(self) -> None:
        if self._n_tasks or self._is_idle or not self._idle or self._is_stopped.is_set():
            return
        self._is_idle = True
        loop = asyncio.get_running_loop()
        future = self._thread.submit(self._do_idly, self._idle[-1])
        future.add_done_callback(lambda done: _call_soon(loop, self._end_idle_time, done.result()))

    def _do_idly(self, work: IdleWork) -> IdleWork | None:
        """Return the work when it is done, None if it was interrupted."""
        try:
            with self.model(lambda: self._n_tasks > 0) as llama:
                self.reading_document = work.document
                work.do(llama)
        except AbortedError:
            return None
        except Exception as error:
            # a request that needs it fails by itself
            self.say(" ".join(str(error).split()) or type(error).__name__)
        finally:
            self.reading_document = None
        return work

    def _end_idle_time(self, done: IdleWork | None) -> None:
        self._is_idle = False
        if done and done in self._idle:
            self._idle.remove(done)
        self._use_idle_time()

    @contextlib.contextmanager
    def model(self, should_abort: Callable[[], bool]) -> Iterator[Llama]:
        """Lend the model, in the worker's thread."""
        self._llama.control = Control(self._report, lambda: should_abort() or self._is_stopped.is_set())
        try:
            yield self._llama
        finally:
            self._llama.control = UNCONTROLLED
            self.reading = 0, 0
            self.observe()

    def observe(self) -> None:
        """Look at the cache, from the worker's thread."""
        self.usage, before = self._llama.usage, self.usage
        self.n_ctx = self._llama.n_ctx()
        self.metrics.set_usage(self.usage, before)
        if self._llama.timings is not self._counted:
            self._counted = self._llama.timings
            self.metrics.add_answer(self._counted)
        for fault in self.usage.faults:
            if fault not in before.faults:
                self.say(fault)

    def _report(self, done: int, total: int) -> None:
        self.reading = done, total

    def cause(self, error: BaseException, deadline: float) -> BaseException:
        """Return why a task was aborted."""
        if not isinstance(error, AbortedError):
            return error
        if self._is_stopped.is_set():
            return StoppedError("the server is stopping")
        if time.monotonic() > deadline:
            return RequestTimeoutError(f"the request took more than {self._timeout:g} s")
        return error


class _Run:
    """One task, called in the worker's thread; its results are awaited in the loop."""

    def __init__(self, worker: Worker, task: Task, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self.worker, self.task, self.loop, self.deadline = worker, task, loop, deadline
        self.is_cancelled = threading.Event()
        # pairs of a result and an error; neither at the end
        self._queue: asyncio.Queue[tuple[Any, BaseException | None]] = asyncio.Queue()

    def __call__(self) -> None:
        error: BaseException | None = None
        try:
            with self.worker.model(self._should_abort) as llama, contextlib.closing(self.task(llama)) as results:
                for result in results:
                    self._put(result, None)
                    # the model itself looks at the clock; what is whole is not late
                    if self.is_cancelled.is_set():
                        raise AbortedError("the request was cancelled")
        except BaseException as caught:
            error = self.worker.cause(caught, self.deadline)
        self._put(None, error)

    def _should_abort(self) -> bool:
        return self.is_cancelled.is_set() or time.monotonic() > self.deadline

    def _put(self, result: Any, error: BaseException | None) -> None:
        _call_soon(self.loop, self._queue.put_nowait, (result, error))

    async def results(self) -> AsyncIterator[Any]:
        while True:
            try:
                # a task that waits has no thread to look at the clock
                left = self.deadline - time.monotonic() + 1
                result, error = await asyncio.wait_for(self._queue.get(), max(0.01, left))
            except asyncio.TimeoutError:
                raise self.worker.cause(AbortedError(), self.deadline) from None
            if error is not None:
                raise error
            if result is None:
                return
            yield result


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Call a function in the loop, from another thread."""
    # the loop is closed when the server has stopped
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)
