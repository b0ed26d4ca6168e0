"""Packages that take an OpenAI client, with our server behind it."""

import pytest
from helpers.serving import serving
from helpers.tiny import Spec

# they deprecate parts of themselves and of one another at each release
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_langchain_over_openai(tiny_model):
    """A client of the server."""
    openai = pytest.importorskip("langchain_community.llms.openai")
    with serving(tiny_model(Spec(n_ctx=4096)), "--kv-budget", "100") as server:
        model = openai.OpenAI(
            openai_api_base=f"{server.url}/v1", openai_api_key="none", model_name="tiny", max_tokens=8, temperature=0
        )
        assert model.invoke("a b c") is not None
        # it keeps its connection open, which is a warning at the end
        model.client._client.close()
