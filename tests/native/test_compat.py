"""The contract with llama-cpp-python: which of its private members we need, by name."""

import re

import llama_cpp
import pytest
from helpers.paths import ROOT
from helpers.tiny import Spec

from dapq_edge.llamacpp import compat


@pytest.fixture(scope="module")
def llama(tiny_model):
    llama = llama_cpp.Llama(str(tiny_model(Spec())), verbose=False)
    yield llama
    llama.close()


@pytest.mark.parametrize("kind", compat.MEMBERS)
def test_members_are_there(llama, kind):
    objects = {
        "Llama": llama,
        "Llama methods": type(llama),
        "LlamaModel": llama._model,
        "LlamaContext": llama._ctx,
        "LlamaSampler": llama._init_sampler(),
        "LlamaGrammar": llama_cpp.LlamaGrammar.from_string('root ::= "a"', verbose=False),
    }
    gone = [name for name in compat.MEMBERS[kind] if not hasattr(objects[kind], name)]
    assert not gone, f"llama-cpp-python {llama_cpp.__version__}: {kind} has no {', '.join(gone)} any more"


def test_nobody_else_knows_private_members():
    """Of `llama_cpp`: a private module, or a private member of what is called llama."""
    private = re.compile(r"llama_cpp\._|\bllama\._[a-z]|_llama\._[a-z]|llama_cpp import _")
    for path in sorted((ROOT / "dapq_edge").rglob("*.py")):
        if path.name != "compat.py":
            assert not private.search(path.read_text()), path


def test_only_one_room_imports_llama_cpp():
    importing = {
        str(path.relative_to(ROOT / "dapq_edge"))
        for path in (ROOT / "dapq_edge").rglob("*.py")
        if re.search(r"^\s*(import|from) llama_cpp\b", path.read_text(), re.MULTILINE)
    }
    assert {path.split("/")[0] for path in importing} == {"llama.py", "llamacpp"}
