#!/usr/bin/env bash
# Run the tests of the patch with AddressSanitizer, UndefinedBehaviorSanitizer and assertions; arguments go to pytest.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRAS="test" ./scripts/setup.sh
.venv/bin/pip install -q cmake ninja
source=$(ls -d .build/llama_cpp_python-*/vendor/llama.cpp)
build=.build/sanitizers

PATH=$PWD/.venv/bin:$PATH
command -v ccache > /dev/null && export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS=-O1 -DCMAKE_CXX_FLAGS=-O1 \
    -DLLAMA_SANITIZE_ADDRESS=ON -DLLAMA_SANITIZE_UNDEFINED=ON -DGGML_RPC=ON -DBUILD_SHARED_LIBS=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF \
    > .build/sanitizers.log
cmake --build "$build" --target llama ggml-rpc >> .build/sanitizers.log

LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
export LD_PRELOAD
# tests of the memory of the process need a small quarantine
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=1:thread_local_quarantine_size_kb=64 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export LLAMA_CPP_LIB_PATH=$build/bin
exec .venv/bin/python -m pytest -p no:cacheprovider --capture=sys \
    tests/native/test_{probe,gather,gathered_sequence,removal,uneven_layers,state,resize,n_layer_eval,fuzz}.py \
    tests/engine/test_{eviction,reader}.py "$@"
