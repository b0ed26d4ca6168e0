"""Names, addresses and paths by which clients reach the server."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from helpers.page import chromium, needs_chromium
from helpers.serving import LETTERS, assert_error, serving
from helpers.tiny import Spec

BODY = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4, "grammar": LETTERS}


@pytest.fixture(scope="module")
def origin():
    """The origin of a page that this machine serves, too: Chromium asks its user before others reach loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{page.server_port}"
        page.shutdown()


class Page(BaseHTTPRequestHandler):
    """A page elsewhere."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a page")

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def open_server(tiny_model, origin):
    """Any model, other hosts, other pages; with a key."""
    options = "--any-model", "--allowed-hosts", "box.lan,Other.example", "--cors", f"{origin},https://other.example"
    with serving(tiny_model(Spec(n_ctx=4096)), *options, key="secret") as running:
        yield running


def test_paths_without_v1(server):
    assert server.client.post("/chat/completions", json=BODY).json()["choices"]
    assert server.client.post("/completions", json={"prompt": "a", "max_tokens": 4, "grammar": LETTERS}).json()[
        "choices"
    ]
    assert server.client.get("/models").json() == server.client.get("/v1/models").json()
    assert server.client.get("/models/tiny").json()["id"] == server.client.get("/v1/models/tiny").json()["id"] == "tiny"
    assert_error(server.client.get("/v1/models/gpt"), 404, "no model", code="model_not_found")


def test_all_that_uses_the_model_needs_the_key(open_server):
    paths = [path for path in open_server.client.get("/openapi.json").json()["paths"] if path not in ("/", "/health")]
    for path in [*paths, "/chat/completions", "/completions", "/models", "/props"]:
        for method in ("GET", "POST"):
            response = httpx.request(method, open_server.url + path, json=BODY)
            assert_error(response, 401, code="invalid_api_key")
    for path in ("/", "/health", "/page/main.js"):
        assert httpx.get(open_server.url + path).status_code == 200


def test_any_model(open_server, server):
    answer = open_server.client.post("/v1/chat/completions", json=BODY | {"model": "gpt-4o"})
    assert answer.status_code == 200
    response = server.client.post("/v1/chat/completions", json=BODY | {"model": "gpt-4o"})
    assert_error(response, 404, "any model", code="model_not_found")


@pytest.mark.parametrize("host", ["box.lan", "BOX.LAN:8080", "other.example", "localhost", "[::1]:8080"])
def test_allowed_hosts(open_server, host):
    assert open_server.client.get("/health", headers={"host": host}).status_code == 200


def test_other_hosts(open_server):
    for host in ("evil.example", "x.box.lan", "box.lan.evil.example"):
        assert_error(open_server.client.get("/health", headers={"host": host}), 403, "names that it was started with")


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6(tiny_model, host):
    with serving(tiny_model(Spec(n_ctx=4096)), "--host", host) as server:
        assert server.url.startswith("http://[::1]:")
        assert server.client.post("/chat/completions", json=BODY).status_code == 200


def test_cors(open_server, server, origin):
    """A browser asks before it sends the key; other pages, and servers without --cors, are not answered."""
    asks = {"origin": origin, "access-control-request-method": "POST"}
    asks["access-control-request-headers"] = "authorization,content-type"
    allowed = httpx.options(f"{open_server.url}/v1/chat/completions", headers=asks)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == origin
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    other = httpx.options(f"{open_server.url}/v1/chat/completions", headers=asks | {"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    without = httpx.options(f"{server.url}/v1/chat/completions", headers=asks)
    assert "access-control-allow-origin" not in without.headers


ASK = """async ([url, body]) => {
    const headers = {"Content-Type": "application/json", "Authorization": "Bearer secret"};
    const response = await fetch(url, {method: "POST", headers, body: JSON.stringify(body)});
    return await response.text();
}"""


@needs_chromium
def test_a_page_elsewhere(open_server, server, origin):
    """A client in a browser, whose origin is another one; a stream, too."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(origin)
        for stream in (False, True):
            body = BODY | {"stream": stream}
            text = page.evaluate(ASK, [f"{open_server.url}/v1/chat/completions", body])
            assert ("data: [DONE]" in text) == stream
            assert '"finish_reason": "length"' in text or '"finish_reason":"length"' in text
        with pytest.raises(Exception, match="Failed to fetch"):
            page.evaluate(ASK, [f"{server.url}/v1/chat/completions", BODY])


def until_idle(server):
    """What /slots says when an answer of before is done, which may take a moment."""
    for _ in range(300):
        slots = server.client.get("/slots").json()
        if not slots[0]["is_processing"]:
            return slots
        time.sleep(0.1)
    raise AssertionError("the server is still processing")


def test_llama_servers_endpoints(server):
    props = server.client.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 4096
    assert (props["total_slots"], props["model_alias"]) == (1, "tiny")
    (slot,) = until_idle(server)
    assert (slot["id"], slot["n_ctx"]) == (0, 4096)
    tokens = server.client.post("/tokenize", json={"content": "w1 w2"}).json()["tokens"]
    assert all(isinstance(token, int) for token in tokens)
    assert server.client.post("/detokenize", json={"tokens": tokens}).json()["content"].split("\u2581") == [
        "",
        "w1",
        "w2",
    ]
    with_start = server.client.post("/tokenize", json={"content": "w1 w2", "add_special": True}).json()["tokens"]
    assert with_start == [1, *tokens]
    (end,) = server.client.post("/tokenize", json={"content": "</s>"}).json()["tokens"][-1:]
    assert end == 2
    text = server.client.post("/tokenize", json={"content": "</s>", "parse_special": False}).json()["tokens"]
    assert 2 not in text
    body = {"content": "w1\u20ac", "with_pieces": True}
    pieces = [part["piece"] for part in server.client.post("/tokenize", json=body).json()["tokens"]]
    assert pieces[-3:] == [[0xE2], [0x82], [0xAC]]
    assert isinstance(pieces[-4], str)
    assert_error(server.client.post("/detokenize", json={"tokens": [10**6]}), 400, "token id")
    assert_error(server.client.post("/tokenize", json={"content": "x" * 2**20}), 400, code="context_length_exceeded")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/v1/rerank", "/v1/responses", "/v1/messages"])
def test_what_is_not_served_is_refused_with_a_reason(server, path):
    response = server.client.post(path, json={"input": "a", "model": "tiny"})
    assert_error(response, 501, "this server has no")
    assert response.json()["error"]["type"] == "not_supported_error"
