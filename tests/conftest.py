import pytest
from llama_cpp._logger import set_verbose
from tiny import Spec, write_gguf

set_verbose(False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A function from a `tiny.Spec` to the path of its GGUF file."""
    folder, paths = tmp_path_factory.mktemp("tiny"), {}

    def path_of(spec: Spec):
        if spec not in paths:
            paths[spec] = write_gguf(spec, folder / f"{len(paths)}-{spec.arch}.gguf")
        return paths[spec]

    return path_of
