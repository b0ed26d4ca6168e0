"""Options, and models that are written once."""

import functools
import itertools
import os

# threads of llama.cpp that spin for long while they wait make tests six times slower beside another process
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import pytest
from llama_cpp._logger import set_verbose

pytest.register_assert_rewrite("helpers")

from helpers.families import write_family  # noqa: E402
from helpers.tiny import write_gguf, write_recurrent_gguf  # noqa: E402

pytest_plugins = ["helpers.skips"]

set_verbose(False)


def pytest_addoption(parser):
    parser.addoption("--fuzz-calls", type=int, default=300, metavar="N", help="random calls of native/test_fuzz.py")


@pytest.fixture(scope="session", autouse=True)
def store_of_the_session(tmp_path_factory):
    """Nothing of a test stays in the user's cache."""
    os.environ["DAPQ_STORE"] = str(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def store(tmp_path_factory, monkeypatch):
    """The store of a test."""
    folder = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("DAPQ_STORE", str(folder))
    return folder


def written_once(folder, write):
    """A function from what `write` takes to the path of its GGUF file."""
    numbers = itertools.count()
    return functools.cache(lambda what: write(what, folder / f"{next(numbers)}.gguf"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A function from a `tiny.Spec` to the path of its GGUF file."""
    return written_once(tmp_path_factory.mktemp("tiny"), write_gguf)


@pytest.fixture(scope="session")
def family_model(tmp_path_factory):
    """A function from the name of a family to the path of its GGUF file."""
    return written_once(tmp_path_factory.mktemp("families"), write_family)


@pytest.fixture(scope="session")
def recurrent_model(tmp_path_factory):
    """The path of a Mamba model: its memory has no cells."""
    return write_recurrent_gguf(tmp_path_factory.mktemp("recurrent") / "mamba.gguf")
