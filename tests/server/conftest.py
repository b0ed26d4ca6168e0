"""A server that all tests share which need no other one."""

import pytest
from helpers.serving import serving
from helpers.tiny import Spec


@pytest.fixture(scope="session")
def server(tiny_model):
    with serving(tiny_model(Spec(n_ctx=4096)), "--kv-budget", "200", "-c", "4096", "--queue", "3") as running:
        yield running
