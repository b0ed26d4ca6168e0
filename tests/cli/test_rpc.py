"""Layers on other machines: two RPC servers on loopback."""

import json
import os
import socket
import subprocess
import threading
from contextlib import contextmanager

import pytest
from helpers.cli import command, dapq_edge, process
from helpers.device import rpc_server
from helpers.processes import until
from helpers.serving import LETTERS, serving
from helpers.tiny import Spec

from dapq_edge.errors import DapqError, UsageError
from dapq_edge.llamacpp import rpc
from dapq_edge.llamacpp.rpc import add_servers, has_rpc, parse_address

needs_rpc = pytest.mark.skipif(not has_rpc(), reason="llama.cpp was built without RPC")


@contextmanager
def started(*args):
    """A process of the command line, with text in pipes."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command(*args), text=True, env=env, **pipes) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture(scope="module")
def servers():
    """Two of them, as --rpc takes them."""
    with rpc_server() as (first, _), rpc_server() as (second, _):
        yield f"{first},{second}"


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(Spec(n_layer=4, n_ctx=4096))


@pytest.fixture(scope="module")
def doc(tmp_path_factory):
    path = tmp_path_factory.mktemp("rpc") / "text.txt"
    path.write_text(" ".join(f"w{i % 50}" for i in range(800)))
    return path


@pytest.mark.slow
@needs_rpc
@pytest.mark.parametrize("policy", ["fused", "laq", "snapkv"])
def test_two_servers_answer_as_one_machine(model, doc, servers, policy):
    # the servers would not read what this machine has in its store
    options = "--kv-budget", 300, "-n", 12, "-t", 1, "--policy", policy, "--json", "--no-store"
    question = ["ask", "-m", model, "--doc", doc, *options]
    results = []
    for run, env in ((dapq_edge, {}), (process, {"LLAMA_ARG_RPC": servers})):
        result = run(*question, "w3?", OMP_NUM_THREADS="1", **env)
        assert result.returncode == 0, result.stderr.decode()
        results.append(json.loads(result.stdout))
    for name in ("answer", "reading", "chunks", "kv_cells_kept", "kv_bytes_kept", "attention_kept"):
        assert results[0][name] == results[1][name]
    # nothing of it is here
    assert results[0]["kv_bytes_kept"] > 0


@pytest.mark.slow
@needs_rpc
def test_serve_over_two_servers(model, servers):
    """The same answer to a prompt beyond the budget as from this machine."""
    body = {
        "prompt": " ".join(f"w{i % 50}" for i in range(250)),
        "max_tokens": 12,
        "temperature": 0,
        "grammar": LETTERS,
    }
    answers = []
    for options in ([], ["--rpc", servers]):
        with serving(model, "-c", "2048", "--kv-budget", "300", *options) as server:
            response = server.client.post("/v1/completions", json=body)
            assert response.status_code == 200, response.text
            answers.append(response.json()["choices"][0]["text"])
            assert server.client.get("/api/usage").json()["n_evictions"] > 0
    assert answers[0] == answers[1]
    assert answers[0]


@needs_rpc
def test_a_server_that_dies_ends_in_one_line(model, tmp_path):
    """The session of the last turn stays, and goes on without the server."""
    session = tmp_path / "a.session"
    chat = ["chat", "-m", model, "--session", session, "-n", 4, "-c", 1024, "--kv-budget", 300]
    with rpc_server() as (address, server), started(*chat, "--rpc", address) as running:
        running.stdin.write("w1 w2 w3\n/save " + str(tmp_path / "b.session") + "\n")
        running.stdin.flush()
        until((tmp_path / "b.session").exists, running)
        saved = session.read_bytes()
        server.kill()
        server.wait()
        _, err = running.communicate("w4 w5 w6\n", timeout=300)
    assert running.returncode == 1
    (line,) = [line for line in err.splitlines() if line.startswith("dapq-edge:")]
    assert "llama.cpp stopped" in line
    assert "RPC" in line
    assert "Traceback" not in err
    assert session.read_bytes() == saved
    result = dapq_edge(*chat, stdin=b"/stats\n/exit\n")
    assert result.returncode == 0, result.stderr.decode()


def test_wrong_addresses():
    assert parse_address("a.b:1") == ("a.b", 1)
    assert parse_address("::1:80") == ("::1", 80)
    for address in ("", "host", "host:", ":1", "host:0", "host:65536", "host:x", "host:\u00b2"):
        with pytest.raises(UsageError, match=r"^rpc "):
            parse_address(address)
        with pytest.raises(UsageError, match=r"^rpc "):
            add_servers([address])


def test_nobody_there(model, doc):
    with pytest.raises(DapqError, match=r"cannot reach the RPC server 127.0.0.1:1: Connection refused"):
        add_servers(["127.0.0.1:1"])
    # an option that is empty is none, whatever the environment says
    words = ["ask", "-m", model, "--doc", doc, "-n", 2, "w?"]
    assert dapq_edge(*words, "--rpc", "", LLAMA_ARG_RPC="127.0.0.1:1").returncode == 0
    assert dapq_edge(*words, LLAMA_ARG_RPC="127.0.0.1:1").returncode == 1
    result = dapq_edge(*words, "--rpc", "127.0.0.1:1")
    assert result.returncode == 1
    assert not result.stdout
    assert result.stderr.count(b"\n") == 1


def receive(connection, n_bytes):
    """So many bytes, in however many pieces they come."""
    data = b""
    while len(data) < n_bytes and (piece := connection.recv(n_bytes - len(data))):
        data += piece
    return data


@contextmanager
def answering(serve):
    """A thread that serves, and has ended afterwards."""
    thread = threading.Thread(target=serve)
    thread.start()
    yield
    thread.join()


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
    # who answers may be slow
    monkeypatch.setattr(rpc, "TIMEOUT", 1 if answer is None else 300)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            client, _ = listener.accept()
            with client:
                receive(client, len(rpc.HELLO))
                client.sendall(answer)

        with answering(serve if answer is not None else lambda: None), pytest.raises(DapqError, match=message):
            add_servers([f"127.0.0.1:{listener.getsockname()[1]}"])


@needs_rpc
def test_server_in_use(monkeypatch):
    """It answers one client after the other."""
    with rpc_server() as (address, _):
        with socket.create_connection(parse_address(address)) as other:
            other.sendall(rpc.HELLO)
            assert len(receive(other, rpc.HELLO_ANSWER.size)) == rpc.HELLO_ANSWER.size
            with monkeypatch.context() as patch:
                patch.setattr(rpc, "TIMEOUT", 1)
                with pytest.raises(DapqError, match="does not answer: is it in use"):
                    add_servers([address])
        monkeypatch.setattr(rpc, "TIMEOUT", 300)
        rpc._greet(address)


@needs_rpc
def test_port_in_use(servers):
    result = process("rpc-server", "-p", servers.rpartition(":")[2])
    assert result.returncode == 1
    assert result.stderr.startswith(b"dapq-edge: cannot listen on 127.0.0.1:")


@needs_rpc
def test_unknown_device():
    result = process("rpc-server", "-d", "CPU,GPU7")
    assert result.returncode == 2
    assert result.stderr.startswith(b"dapq-edge: --device GPU7: there is CPU")
