"""Packages that take an OpenAI client, with our server behind it."""

import pytest
from helpers.formulas import SPEC
from helpers.serving import serving


def test_langchain_over_openai(tiny_model):
    """A client of the server."""
    openai = pytest.importorskip("langchain_community.llms.openai")
    with serving(tiny_model(SPEC), "--kv-budget", "100") as server:
        model = openai.OpenAI(
            openai_api_base=f"{server.url}/v1", openai_api_key="none", model_name="tiny", max_tokens=8, temperature=0
        )
        assert model.invoke("a b c") is not None
