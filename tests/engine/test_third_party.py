"""Packages that take a `llama_cpp.Llama`, with ours in its place."""

import pytest
from helpers.llamas import OPTIONS
from helpers.serving import LETTERS
from helpers.tiny import Spec

from dapq_edge import Llama

SPEC = Spec(n_ctx=4096)
LONG = "abc def ghi. " * 100

# they deprecate parts of themselves and of one another at each release
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_langchain(tiny_model, monkeypatch):
    """Its LlamaCpp makes a `llama_cpp.Llama` itself."""
    community = pytest.importorskip("langchain_community.llms")
    import llama_cpp

    monkeypatch.setattr(llama_cpp, "Llama", lambda *args, **options: Llama(*args, kv_budget=100, **options))
    model = community.LlamaCpp(
        model_path=str(tiny_model(SPEC)), n_ctx=4096, max_tokens=8, temperature=0, verbose=False, grammar=LETTERS
    )
    assert isinstance(model.client, Llama)
    text = model.invoke(LONG)
    assert text
    assert model.client.usage.n_evictions > 0
    assert model.client.usage.n_cells <= 768
    assert "".join(model.stream(LONG)) == text
    model.client.close()


def test_langchain_chat(tiny_model, monkeypatch):
    """Its chat model takes ours as it is."""
    models = pytest.importorskip("langchain_community.chat_models")
    import llama_cpp

    monkeypatch.setattr(llama_cpp, "Llama", lambda *args, **options: Llama(*args, kv_budget=100, **options))
    chat = models.ChatLlamaCpp(
        model_path=str(tiny_model(SPEC)), n_ctx=4096, max_tokens=8, temperature=0, verbose=False, grammar=LETTERS
    )
    assert chat.invoke([("human", LONG)]).content
    assert chat.client.usage.n_evictions > 0
    chat.client.close()


def test_llama_index(tiny_model):
    """Its LlamaCPP, with the model that it loaded replaced."""
    llms = pytest.importorskip("llama_index.llms.llama_cpp")
    model = llms.LlamaCPP(
        model_path=str(tiny_model(SPEC)),
        context_window=4096,
        max_new_tokens=8,
        temperature=0.0,
        messages_to_prompt=lambda messages: "".join(message.content for message in messages),
        completion_to_prompt=lambda text: text,
        verbose=False,
    )
    ours = Llama(tiny_model(SPEC), n_ctx=4096, kv_budget=100, **OPTIONS)
    model._model = ours
    assert model.complete(LONG).text is not None
    assert ours.usage.n_evictions > 0
    assert len(list(model.stream_complete(LONG))) > 0
    ours.close()
