#!/usr/bin/env bash
# Cross-build llama.cpp for aarch64, and run the tests of the patch with an aarch64 Python under qemu-user; arguments go
# to pytest. On Debian, as root, with g++-aarch64-linux-gnu, qemu-user-static and debootstrap. ARM_ARCH=armv8-a builds
# kernels that add up in f32.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRAS="test" ./scripts/setup.sh
.venv/bin/pip install -q cmake ninja
source=$(ls -d .build/llama_cpp_python-*)
build=$PWD/.build/aarch64
mkdir -p "$build"

PATH=$PWD/.venv/bin:$PATH
command -v ccache > /dev/null && export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
# what the processors of most boards and clouds have; GCC 12 does not know all that the wheels have kernels for
cmake -S "$source/vendor/llama.cpp" -B "$build/cmake" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH="${ARM_ARCH:-armv8.2-a+dotprod+fp16}" -DGGML_RPC=ON -DBUILD_SHARED_LIBS=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF \
    > "$build/build.log"
cmake --build "$build/cmake" --target llama -j "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" >> "$build/build.log"

# Debian's packages and pip's wheels only have to be unpacked
if ! [ -x "$build/system/usr/bin/python3" ]; then
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,libgomp1,libstdc++6 \
        bookworm "$build/system" > "$build/system.log"
    for package in "$build"/system/var/cache/apt/archives/*.deb; do
        dpkg-deb -x "$package" "$build/system"
    done
fi
if ! [ -d "$build/site/numpy" ]; then
    pip install -q --target "$build/site" --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        diskcache gguf jinja2 numpy platformdirs psutil pytest scipy typing-extensions
fi

# settings of this machine's numpy are not for that one
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
export PYTHONHOME=$build/system/usr PYTHONPATH=$PWD:$build/site:$PWD/$source LLAMA_CPP_LIB_PATH=$build/cmake/bin
exec qemu-aarch64-static -L "$build/system" "$build/system/usr/bin/python3.11" -m pytest -p no:cacheprovider \
    tests/native/test_{probe,gather,gathered_sequence,removal,resize,state,n_layer_eval,uneven_layers,fuzz}.py "$@"
