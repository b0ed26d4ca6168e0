"""Layers on other machines: two RPC servers on loopback."""

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from helpers.device import rpc_server
from helpers.paths import ROOT
from helpers.serving import LETTERS, serving
from helpers.tiny import Spec

from dapq_edge import rpc
from dapq_edge.errors import DapqError, UsageError
from dapq_edge.rpc import add_servers, has_rpc, parse_address

needs_rpc = pytest.mark.skipif(not has_rpc(), reason="llama.cpp was built without RPC")


@contextmanager
def dapq_edge(*args, **env):
    command = [sys.executable, "-m", "dapq_edge", *map(str, args)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    process = subprocess.Popen(command, cwd=ROOT, text=True, env=env, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(Spec(n_layer=4, n_ctx=4096))


@pytest.fixture(scope="module")
def doc(tmp_path_factory):
    path = tmp_path_factory.mktemp("rpc") / "text.txt"
    path.write_text(" ".join(f"w{i % 50}" for i in range(800)))
    return path


@needs_rpc
@pytest.mark.parametrize("policy", ["fused", "laq", "snapkv"])
def test_two_servers_answer_as_one_machine(model, doc, policy):
    command = [
        "ask",
        "-m",
        model,
        "--doc",
        doc,
        "--kv-budget",
        300,
        "-n",
        12,
        "-t",
        1,
        "--policy",
        policy,
        "--json",
        "w3?",
    ]
    with rpc_server() as (first, _), rpc_server() as (second, _):
        results = []
        for servers in ("", f"{first},{second}"):
            with dapq_edge(*command, LLAMA_ARG_RPC=servers) as process:
                out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            results.append(json.loads(out))
    for name in ("answer", "reading", "chunks", "kv_cells_kept", "kv_bytes_kept", "attention_held"):
        assert results[0][name] == results[1][name]
    # nothing of it is here
    assert results[0]["kv_bytes_kept"] > 0


@needs_rpc
def test_serve_over_two_servers(model):
    """The same answer to a prompt beyond the budget as from this machine."""
    body = {
        "prompt": " ".join(f"w{i % 50}" for i in range(250)),
        "max_tokens": 12,
        "temperature": 0,
        "grammar": LETTERS,
    }
    answers = []
    with rpc_server() as (first, _), rpc_server() as (second, _):
        for options in ([], ["--rpc", f"{first},{second}"]):
            with serving(model, "-c", "2048", "--kv-budget", "300", *options) as server:
                response = server.client.post("/v1/completions", json=body)
                assert response.status_code == 200, response.text
                answers.append(response.json()["choices"][0]["text"])
                assert server.client.get("/api/usage").json()["n_evictions"] > 0
    assert answers[0] == answers[1] and answers[0]


@needs_rpc
def test_a_server_that_dies_ends_in_one_line(model, tmp_path):
    """The session of the last turn stays, and goes on without the server."""
    session = tmp_path / "a.session"
    chat = ["chat", "-m", model, "--session", session, "-n", 4, "-c", 1024, "--kv-budget", 300]
    with rpc_server() as (address, server), dapq_edge(*chat, "--rpc", address) as process:
        process.stdin.write("w1 w2 w3\n/save " + str(tmp_path / "b.session") + "\n")
        process.stdin.flush()
        while not (tmp_path / "b.session").exists():
            assert process.poll() is None
        saved = session.read_bytes()
        server.kill()
        server.wait()
        _, err = process.communicate("w4 w5 w6\n", timeout=60)
    assert process.returncode == 1
    (line,) = [line for line in err.splitlines() if line.startswith("dapq-edge:")]
    assert "llama.cpp stopped" in line and "RPC" in line and "Traceback" not in err
    assert session.read_bytes() == saved
    with dapq_edge(*chat) as process:
        out, err = process.communicate("/stats\n/exit\n", timeout=60)
    assert process.returncode == 0, err


def test_wrong_addresses():
    assert parse_address("a.b:1") == ("a.b", 1) and parse_address("::1:80") == ("::1", 80)
    for address in ("", "host", "host:", ":1", "host:0", "host:65536", "host:x", "host:\u00b2"):
        with pytest.raises(UsageError, match="--rpc"):
            parse_address(address)
        with pytest.raises(UsageError, match="--rpc"):
            add_servers([address])


def test_nobody_there(model, doc):
    with pytest.raises(DapqError, match="cannot reach the RPC server 127.0.0.1:1: Connection refused"):
        add_servers(["127.0.0.1:1"])
    with dapq_edge("ask", "-m", model, "--doc", doc, "--rpc", "127.0.0.1:1", "w?") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and not out and err.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "is no RPC server"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "is no RPC server"),
        (rpc.HELLO_ANSWER.pack(28, 6, 0, 0, 0), "speaks version 6.0"),
        (rpc.HELLO_ANSWER.pack(28, 7, 1, 0, 0), "speaks version 7.1"),
        (None, "does not answer"),
    ],
)
def test_somebody_else_there(answer, message, monkeypatch):
    monkeypatch.setattr(rpc, "TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            client, _ = listener.accept()
            with client:
                client.recv(100)
                client.sendall(answer or b"")

        if answer is not None:
            threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(DapqError, match=message):
            add_servers([f"127.0.0.1:{listener.getsockname()[1]}"])


@needs_rpc
def test_server_in_use(monkeypatch):
    """It answers one client after the other."""
    monkeypatch.setattr(rpc, "TIMEOUT", 1)
    with rpc_server() as (address, _):
        with socket.create_connection(parse_address(address)) as other:
            other.sendall(rpc.HELLO)
            assert len(other.recv(100)) == rpc.HELLO_ANSWER.size
            with pytest.raises(DapqError, match="does not answer: is it in use"):
                add_servers([address])
        rpc._greet(address)


@needs_rpc
def test_port_in_use():
    with rpc_server() as (address, _), dapq_edge("rpc-server", "-p", address.rpartition(":")[2]) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.startswith("dapq-edge: cannot listen on 127.0.0.1:")


@needs_rpc
def test_unknown_device():
    with dapq_edge("rpc-server", "-d", "CPU,GPU7") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.startswith("dapq-edge: --device GPU7: there is CPU")
