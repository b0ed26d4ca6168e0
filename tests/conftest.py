import functools
import itertools

import pytest
from families import write_family
from llama_cpp._logger import set_verbose
from tiny import write_gguf

set_verbose(False)


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
