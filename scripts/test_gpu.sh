#!/usr/bin/env bash
# Build for a GPU and run the tests of the patch there; arguments go to pytest.
#
#   GPU_BACKEND   CUDA (default), METAL, VULKAN or SYCL

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CMAKE_ARGS="-DGGML_${GPU_BACKEND:-CUDA}=on ${CMAKE_ARGS:-}"
EXTRAS="test" ./scripts/setup.sh

# tests without a GPU would only skip
.venv/bin/python - << 'EOF'
from dapq_edge.llamacpp.devices import gpus

found = gpus()
print(*(f"{gpu.name}: {gpu.free / 2**30:.1f} GiB free" for gpu in found), sep="\n")
raise SystemExit(not found and "test_gpu.sh: no GPU that this build of llama.cpp can use")
EOF
exec .venv/bin/python -m pytest -v -rs -s tests/native/test_device.py tests/native/test_backends.py "$@"
