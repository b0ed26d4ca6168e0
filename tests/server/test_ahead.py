"""Idle time: an uploaded document is read before it is asked about, and no request waits for that."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from helpers.serving import serving
from helpers.tiny import Spec

from dapq_edge.control import UNCONTROLLED
from dapq_edge.reading.timings import Timings
from dapq_edge.server.worker import IdleWork, Worker

DOCUMENT = "\n\n".join(f"The clerk counted crate {i} and the gulls." for i in range(300))


class Fake:
    """A model that only says what it was asked to do."""

    def __init__(self):
        self.control, self.said = UNCONTROLLED, []
        numbers = dict.fromkeys(("bytes_used", "bytes_allocated", "n_cells_used", "n_cells", "n_tokens"), 0)
        self.usage = SimpleNamespace(**numbers, n_evictions=0, n_rereads=0, faults=[])
        self.engine, self.timings = SimpleNamespace(take_faults=list), Timings()

    def n_ctx(self):
        return 4096

    def close(self):
        pass

    def work(self, name, n_steps=1000, until=None):
        """So many steps, or less if an event comes before."""

        def run(llama):
            assert llama is self
            for _ in range(n_steps):
                self.control.check()
                if until and until.is_set():
                    break
                time.sleep(0.01)
            self.said.append(name)

        return IdleWork(f"{name}.txt", run)

    def answer(self, name):
        def task(llama):
            self.said.append(name)
            yield name

        return task


def using_worker(use, **options):
    async def run():
        llama = Fake()
        worker = Worker(llama, n_waiting=4, timeout=60, **options)
        try:
            await use(llama, worker)
        finally:
            await asyncio.to_thread(worker.close)
        return llama.said

    return asyncio.run(run())


async def all_of(results):
    return [result async for result in results]


def test_a_request_interrupts_what_is_done_in_idle_time():
    async def use(llama, worker):
        worker.when_idle(llama.work("read", 30))
        await asyncio.sleep(0.05)
        assert await all_of(worker.results(llama.answer("first"))) == ["first"]
        assert await all_of(worker.results(llama.answer("second"))) == ["second"]
        while len(llama.said) < 3:
            await asyncio.sleep(0.01)

    assert using_worker(use) == ["first", "second", "read"]


async def until(is_so):
    while not is_so():
        await asyncio.sleep(0.001)


def test_the_document_that_is_read_has_a_name():
    is_free = threading.Event()

    async def use(llama, worker):
        assert (worker.reading_document, worker.unread) == (None, [])
        for name in ("one", "two"):
            worker.when_idle(llama.work(name, until=is_free))
        await until(lambda: worker.reading_document)
        assert (worker.reading_document, worker.unread) == ("one.txt", ["two.txt", "one.txt"])
        await all_of(worker.results(llama.answer("first")))
        # it is begun again, behind the last one that came
        await until(lambda: worker.reading_document)
        assert (worker.reading_document, worker.unread) == ("two.txt", ["two.txt", "one.txt"])
        is_free.set()
        await until(lambda: not worker.unread)
        assert worker.reading_document is None

    assert using_worker(use) == ["first", "two", "one"]


def test_what_fails_in_idle_time_is_said_and_not_done_again():
    said = []

    async def use(llama, worker):
        def fail(_):
            llama.said.append("tried")
            raise ValueError("no\nroom")

        worker.when_idle(IdleWork("a.txt", fail))
        await asyncio.sleep(0.05)
        await all_of(worker.results(llama.answer("first")))
        worker.when_idle(llama.work("read", 1))
        while "read" not in llama.said:
            await asyncio.sleep(0.01)

    assert using_worker(use, say=said.append) == ["tried", "first", "read"]
    assert said == ["no room"]


def test_the_last_documents_are_read_and_the_server_can_stop():
    async def use(llama, worker):
        for i in range(20):
            worker.when_idle(llama.work(f"read {i}", 1000))
        await until(lambda: worker.reading_document)
        assert worker.unread == [f"read {i}.txt" for i in range(19, 11, -1)]
        assert worker.reading_document == "read 0.txt"

    assert using_worker(use) == []


def test_faults_of_the_store_are_said_once():
    said = []

    async def use(llama, worker):
        for faults in (["full"], ["full"], ["full", "damaged"], []):
            llama.usage = SimpleNamespace(**{**vars(llama.usage), "faults": faults})
            await all_of(worker.results(llama.answer("x")))

    using_worker(use, say=said.append)
    assert said == ["full", "damaged"]


@pytest.mark.slow
def test_a_document_is_read_before_it_is_asked_about(tiny_model, tmp_path):
    options = "--kv-budget", "200", "-c", "32768", "--store", tmp_path / "store"
    with serving(tiny_model(Spec(n_ctx=32768)), *map(str, options)) as server:
        found = server.client.post("/api/document", content=DOCUMENT.encode()).json()
        assert found["n_tokens"] > 5000
        files, end = [], time.monotonic() + 300
        while len(files) < 3 or server.client.get("/api/usage").json()["reading_total"] > 1:
            assert time.monotonic() < end
            files = list((tmp_path / "store").glob("*.kv"))
            time.sleep(0.05)
        assert server.chat(f"{found['text']}\n\nWho counted?").status_code == 200
        usage = server.usage()
        assert usage["n_stored"] == usage["n_windows"][1] > 3
        # what is being read does not hold up a request
        long = DOCUMENT[::-1]
        assert server.client.post("/api/document?name=long.txt", content=long.encode()).json()["n_tokens"] < 32768
        while (usage := server.client.get("/api/usage").json())["reading_total"] < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert (usage["reading_document"], usage["unread_documents"]) == ("long.txt", ["long.txt"])
        assert server.chat("Hello").status_code == 200
        assert server.client.get("/api/usage").json()["unread_documents"] == ["long.txt"]
