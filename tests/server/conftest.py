"""A server that all tests share which need no other one, and a browser."""

import pytest
from helpers.page import Visit, chromium
from helpers.serving import serving
from helpers.tiny import Spec


@pytest.fixture(scope="session")
def server(tiny_model):
    with serving(tiny_model(Spec(n_ctx=4096)), "--kv-budget", "200", "-c", "4096", "--queue", "3") as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser, server):
    """A function that opens the page of the server; what goes wrong on it must be said on it."""
    visits = []

    def open_page(url=None, **options):
        visits.append(Visit(browser, url or server.url, **options))
        return visits[-1]

    yield open_page
    for one in visits:
        one.close()
