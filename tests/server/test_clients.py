"""Several clients, and those that leave."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
from helpers.serving import LETTERS, LONG, assert_error, metric, serving
from helpers.tiny import Spec


@pytest.mark.slow
def test_the_queue_has_a_bound(server):
    """What is beyond it is told to come again; nothing that was accepted is lost."""
    body = {"prompt": "a b", "max_tokens": 1000, "temperature": 0, "grammar": LETTERS}
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda _: server.client.post("/v1/completions", json=body), range(10)))
    for response in responses:
        if response.status_code == 429:
            assert response.headers["retry-after"] == "1"
            assert_error(response, 429, "wait")
    statuses = [response.status_code for response in responses]
    assert statuses.count(200) + statuses.count(429) == 10
    assert 4 <= statuses.count(200) < 10
    assert metric(server, "dapq_queue_waiting") == 0


@pytest.fixture(scope="module")
def patient(tiny_model):
    """A server whose answers take long on any machine."""
    with serving(tiny_model(Spec(n_ctx=2**16)), "--kv-budget", "200", "-c", str(2**16)) as running:
        yield running


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_answer(patient, stream):
    """Running or waiting: the answer ends before its 60,000 tokens, without a trace in the log."""
    body = {"prompt": "a b", "max_tokens": 60_000, "temperature": 0, "stream": stream, "grammar": LETTERS}

    def leave(timeout):
        url = f"{patient.url}/v1/completions"
        with suppress(httpx.ReadTimeout), httpx.stream("POST", url, json=body, timeout=timeout):
            time.sleep(0.3)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(leave, (0.8, 0.4)))
    # this one waits for what still runs; nothing is there if the last answer ended before its first token
    assert patient.client.get("/api/kept").status_code in (200, 400)
    assert patient.usage()["n_tokens"] < 45_000
    assert metric(patient, "dapq_queue_waiting") == 0
    assert "Traceback" not in patient.log()
    assert patient.chat().status_code == 200


def test_two_clients_at_once(server):
    """Each gets the answer to its own prompt, though they share the one sequence."""
    prompts = [f"{word} {LONG}" for word in ("one", "two")]
    expected = [
        server.client.post("/v1/completions", json={"prompt": p, "temperature": 0, "grammar": LETTERS}).json()
        for p in prompts
    ]
    expected = [answer["choices"][0]["text"] for answer in expected]

    def ask(i):
        body = {"prompt": prompts[i], "temperature": 0, "grammar": LETTERS}
        answers = [server.client.post("/v1/completions", json=body).json() for _ in range(3)]
        return {answer["choices"][0]["text"] for answer in answers}

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask, range(2)))
    assert answers == [{expected[0]}, {expected[1]}]
