#!/usr/bin/env bash
# What test_gpu.sh does, on a Mac; arguments go to pytest.

set -euo pipefail

[ "$(uname -s)" = Darwin ] || { echo "test_metal.sh: needs macOS" >&2; exit 1; }
GPU_BACKEND=METAL exec "$(dirname "${BASH_SOURCE[0]}")/test_gpu.sh" "$@"
