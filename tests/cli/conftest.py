"""A model and a document for the command line."""

import json

import pytest
from helpers.cli import TEXT
from helpers.needles import HAYSTACK, NEEDLES
from helpers.tiny import Spec


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(Spec(n_ctx=2048))


@pytest.fixture
def doc(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def data(tmp_path):
    """A haystack and needles in its words."""
    (tmp_path / "text.txt").write_text(HAYSTACK)
    lines = [json.dumps({k: v for k, v in vars(needle).items() if v}) for needle in NEEDLES]
    (tmp_path / "needles.jsonl").write_text("\n".join(lines) + "\n")
    return ["--haystack", tmp_path, "--needles", tmp_path / "needles.jsonl"]
