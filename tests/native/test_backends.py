"""What the patch asks of a backend, against the tables of supported operations in llama.cpp's own source.

Metal, Vulkan and SYCL cannot run here. The tables say which operations, on which types, a backend computes itself; the
scheduler would move others to the CPU.
"""

import re

import pytest
from helpers.paths import ROOT

GGML = next((ROOT / ".build").glob("llama_cpp_python-*/vendor/llama.cpp/ggml/src"), ROOT)

pytestmark = pytest.mark.skipif(GGML == ROOT, reason="needs the source that scripts/setup.sh unpacks")

# functions that add nodes to a graph, and the operations that they add; views and the like compute nothing
OPERATIONS = {
    "ggml_add": "OP_ADD",
    "ggml_cont": "OP_CONT",
    "ggml_get_rows": "OP_GET_ROWS",
    "ggml_mul_mat": "OP_MUL_MAT",
    "ggml_pool_2d": "OP_POOL_2D",
    "ggml_scale": "OP_SCALE",
    "ggml_set_rows": "OP_SET_ROWS",
    "ggml_soft_max_ext": "OP_SOFT_MAX",
    "ggml_tanh": "UNARY_OP_TANH",
}
NO_OPERATION = ("ggml_view_1d", "ggml_view_3d", "ggml_view_4d", "ggml_new_tensor_2d", "ggml_get_next_tensor")

TABLES = {
    "Metal": ("ggml-metal/ggml-metal-device.m", "ggml_metal_device_supports_op"),
    "CUDA": ("ggml-cuda/ggml-cuda.cu", "ggml_backend_cuda_device_supports_op"),
    "Vulkan": ("ggml-vulkan/ggml-vulkan.cpp", "ggml_backend_vk_device_supports_op"),
    "SYCL": ("ggml-sycl/ggml-sycl.cpp", "do_ggml_backend_sycl_device_supports_op"),
}


def case(backend: str, operation: str) -> str:
    """What a table says of an operation, up to the next one."""
    file, function = TABLES[backend]
    source = (GGML / file).read_text()
    body = re.search(rf"^[^\n;]*\b{function}\([^;]*?\) \{{\n(.*?)^\}}", source, re.MULTILINE | re.DOTALL)[1]
    # labels that share an answer
    body = re.sub(r"(case GGML_\w+:)\s*(?=case GGML_)", r"\1 ", body)
    found = re.search(
        rf"^ *case .*\bGGML_{operation}:(.*?)(?=^ *(?:case GGML_\w*OP_|default:$))", body, re.MULTILINE | re.DOTALL
    )
    assert found, f"{backend} does not know {operation}"
    return found[1]


def test_all_functions_are_known():
    lines = [line for patch in (ROOT / "patches").glob("*.patch") for line in patch.read_text().splitlines()]
    added = "\n".join(line for line in lines if line.startswith("+"))
    used = set(re.findall(r"\b(ggml_(?!backend)\w+)\s*\(ctx0?,", added))
    assert used - set(NO_OPERATION) == set(OPERATIONS)


@pytest.mark.parametrize("backend", TABLES)
@pytest.mark.parametrize("operation", OPERATIONS.values())
def test_operation_is_supported(backend, operation):
    assert not re.match(r"\s*\{?\s*return false;", case(backend, operation))


@pytest.mark.parametrize("backend", TABLES)
def test_rows_are_moved_as_they_are(backend):
    """As F32, whatever they hold, or as the F16 of a transposed V, which goes through F32 and back."""
    get, put = case(backend, "OP_GET_ROWS"), case(backend, "OP_SET_ROWS")
    assert "GGML_TYPE_F32" in put
    assert "GGML_TYPE_F16" in put
    # Metal lists what it cannot read, the others what they can
    assert ("!= GGML_TYPE" in get and "F32" not in get) if backend == "Metal" else "GGML_TYPE_F32" in get
