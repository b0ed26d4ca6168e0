"""The plugin for `llm`: models, documents and options, as its user has them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny import Spec

pytest.importorskip("llm", reason="needs llm (pip install llm)")

PDF = Path(__file__).parents[1] / "data/documents/made/writer-en.pdf"

# the plugin without an installed entry point
RUN = """
import sys
from llm.plugins import pm
from dapq_edge.cli import llm_plugin
pm.get_plugin("dapq-edge") or pm.register(llm_plugin, "dapq-edge")
from llm.cli import cli
cli(sys.argv[1:])
"""


@pytest.fixture
def llm(tiny_model, tmp_path):
    """A function that runs `llm` with a tiny model; what it prints on stdout and stderr."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "tiny.gguf").symlink_to(tiny_model(Spec(n_ctx=4096)))
    env = {**os.environ, "LLAMA_CACHE": str(cache), "LLM_USER_PATH": str(tmp_path / "user"), "OMP_NUM_THREADS": "1"}

    def run(*args, stdin="", code=0):
        command = [sys.executable, "-c", RUN, *map(str, args)]
        result = subprocess.run(command, input=stdin, capture_output=True, text=True, env=env, timeout=300)
        assert result.returncode == code, result.stderr
        return result.stdout, result.stderr

    return run


def test_models(llm):
    listed, _ = llm("models", "--options")
    for words in ("dapq-edge/smollm2-135m", "dapq-edge/tiny", "kv_budget", "policy"):
        assert words in listed


def test_a_pdf_is_a_fragment(llm):
    """As the text that it has, and not as the bytes of the file; it stays in the conversation."""
    llm("-m", "dapq-edge/tiny", "-f", PDF, "-o", "max_tokens", 4, "-o", "kv_budget", 100, "What is it?")
    logged, _ = llm("logs", "--json", "-n", 1)
    assert "harbour" in logged.lower()
    assert "%PDF" not in logged
    llm("-c", "And?", "-o", "max_tokens", 4, "-o", "policy", "snapkv")
    (entry,) = json.loads(llm("logs", "--json", "-n", 1)[0])
    assert entry["input_tokens"] > 400
    assert entry["output_tokens"] == 4


def test_what_is_wrong_is_one_line(llm, tmp_path):
    _, error = llm("-m", "dapq-edge/tiny", "-o", "kv_budget", "no", "Why?", code=1)
    assert "kv_budget" in error
    assert "Traceback" not in error
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7\n\xff\xfe")
    _, error = llm("-m", "dapq-edge/tiny", "-f", tmp_path / "bad.pdf", "Why?", code=1)
    assert "bad.pdf" in error
    assert "Traceback" not in error


def test_an_answer_that_is_cut_says_so(llm):
    _, error = llm("-m", "dapq-edge/tiny", "-o", "max_tokens", 4, "Why?")
    # it begins a line, where a terminal shows it behind the answer
    assert error == "\ndapq-edge: the answer was cut after 4 tokens: raise -o max_tokens\n"
